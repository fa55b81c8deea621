# `make demo` and `make test` set up .venv by themselves; a second call does not install again.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed

.PHONY: demo test lint train-tiny clean

demo: $(STAMP)
	$(BIN)/python -m benchmarks.demo --out runs/demo

# One thread a worker: the tests are many and small.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy

# The whole recipe of the bundled model; run it again to continue. MINUTES ends training early, and with it
# make (Error 75), so that no stage builds on an unfinished one. LAYERS and STEPS are what it will recommend.
DATA ?= data/tiny_imagenet
RUN ?= runs/tiny
MINUTES ?= 100000
train-tiny: $(STAMP)
	$(BIN)/python scripts/train_tokenizer.py --data $(DATA) --out $(RUN)/tokenizer --max-minutes $(MINUTES)
	$(BIN)/python scripts/tokenize_images.py --data $(DATA) --tokenizer $(RUN)/tokenizer/model --out $(RUN)/tokens
	$(BIN)/python scripts/train_randar.py --tokens $(RUN)/tokens --out $(RUN)/randar --max-minutes $(MINUTES)
	$(BIN)/python scripts/assemble_model.py --tokenizer $(RUN)/tokenizer/model --transformer $(RUN)/randar/model \
		--tokens $(RUN)/tokens --out $(RUN)/model $(if $(LAYERS),--layers $(LAYERS)) $(if $(STEPS),--steps $(STEPS))

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $(STAMP)

clean:
	rm -rf $(VENV) build runs/demo .pytest_cache .mypy_cache .ruff_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
