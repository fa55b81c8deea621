# `make demo` and `make test` set up .venv by themselves; a second call does not install again.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed

.PHONY: demo test lint train-tiny gpu-report clean

demo: $(STAMP)
	$(BIN)/python -m benchmarks.demo --out runs/demo

# One thread a worker: the tests are many and small. Each worker takes one stretch of them, so that what a package shares
# is made once, and then what others have not begun. Modules are compiled once, not by each process that tests start.
# FORMAT=bfloat16 or float32 tests as on a processor whose fastest format that is; TESTS are the files to run.
FORMAT ?=
TESTS ?=
test: $(STAMP)
	PYTHONDONTWRITEBYTECODE= RANDAR_TEST_FORMAT=$(FORMAT) OMP_NUM_THREADS=1 \
		$(BIN)/python -m pytest -n auto --dist worksteal $(TESTS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy

# A model from fresh weights, as the first randar-tiny was: tokenizer, tokens and transformer. (The card of the bundled
# randar-tiny has its own recipe, which goes on from that one.) Run it again to continue. After MINUTES in all the stage
# ends at a checkpoint, or after a shard of tokens, with status 75, so that no stage builds on an unfinished one: make
# says "Error 75", and itself ends with status 2, as for any other error. Each stage says how far it is and when it will
# end. TOKENS=FOLDER trains on tokens that were made elsewhere, and needs no images. LAYERS and STEPS are what the model
# will recommend, RECIPE overrides training options.
DATA ?= data/tiny_imagenet
RUN ?= runs/tiny
MINUTES ?= 100000
RECIPE ?=
START := $(shell date +%s)
LEFT = --max-minutes $$(( $(MINUTES) - ($$(date +%s) - $(START)) / 60 ))
train-tiny: $(STAMP)
	@echo "The whole recipe takes about 2 h 45 min of one core: tokenizer and tokens 30 min, RandAR 2 h 15 min." \
		$(if $(filter-out 100000,$(MINUTES)),"This call ends after $(MINUTES) min; run it again to continue.")
ifndef TOKENS
	$(BIN)/python scripts/train_tokenizer.py --data $(DATA) --pixels $(RUN)/pixels --out $(RUN)/tokenizer $(LEFT)
	$(BIN)/python scripts/train_tokenizer.py --data $(DATA) --pixels $(RUN)/pixels --out $(RUN)/decoder $(LEFT) \
		--config randar_features/training/recipes/tiny_decoder.yaml initial=$(RUN)/tokenizer/model
	$(BIN)/python scripts/tokenize_images.py --data $(DATA) --tokenizer $(RUN)/decoder/model --out $(RUN)/tokens $(LEFT)
endif
	$(BIN)/python scripts/train_randar.py --tokens $(or $(TOKENS),$(RUN)/tokens) --out $(RUN)/randar $(LEFT) $(RECIPE)
	$(BIN)/python scripts/assemble_model.py --transformer $(RUN)/randar/model --tokens $(or $(TOKENS),$(RUN)/tokens) \
		--out $(RUN)/model $(if $(LAYERS),--layers $(LAYERS)) $(if $(STEPS),--steps $(STEPS))

# Tests and speed on a GPU in at most 8 minutes → OUT, benchmarks/results/gpu/DEVICE if it is not given. Where nothing
# can be installed, GPU_PYTHON names a Python that has PyTorch and the packages of pyproject.toml.
OUT ?=
GPU_PYTHON ?= $(BIN)/python
gpu-report: $(if $(filter $(BIN)/python,$(GPU_PYTHON)),$(STAMP))
	$(GPU_PYTHON) -m benchmarks gpu_report $(if $(OUT),--out $(OUT))

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $(STAMP)

clean:
	rm -rf $(VENV) build runs/demo .pytest_cache .mypy_cache .ruff_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
