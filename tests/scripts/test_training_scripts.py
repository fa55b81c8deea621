"""The training scripts as one calls them, on images that take no time."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import re
import runpy
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from benchmarks.result import read_result
from randar_features import generate, load_model, load_tokenizer
from randar_features.data import open_images
from randar_features.data.token_store import TokenStore
from randar_features.options.command import UNFINISHED
from randar_features.tokenizers.folder import tokenizer_hash
from randar_features.training.auxiliary.teacher_maps import TeacherMaps
from randar_features.training.checkpoint import newest_checkpoint
from tests.kill.__main__ import Count, compare
from tests.kill.__main__ import main as kill_script
from tests.kill.jobs import Job
from tests.small_models import IMAGE_SIZE, write_folder
from tests.training.small import FRESH, random_tokens, read_log, same, write_store

ROOT = Path(__file__).parents[2]
TOKENIZER_SIZES = [
    "network.channels=32",
    "network.channel_multipliers=[1]",
    "network.latent_channels=8",
    "network.vocab_size=16",
    "network.attention=false",
    "image_size=16",
]
TOKENIZER_RECIPE = ["total_steps=6", "batch_size=3", "warmup_steps=2", "continuous_steps=2", "evaluation_images=4"]
RANDAR_SIZES = ["model.num_layers=2", "model.num_heads=2", "model.dim=16", "model.ffn_multiple_of=16"]
RANDAR_RECIPE = ["total_steps=6", "batch_size=3", "warmup_steps=2", "evaluation_images=2", "evaluation_orders=2"]


def call(name: str, *arguments: str | Path) -> str:
    """Run a script in this process, as `python scripts/name.py arguments` would; what it says on standard error."""
    precision = torch.get_float32_matmul_precision()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        errors = io.StringIO()
        try:
            with contextlib.redirect_stderr(errors):
                runpy.run_path(str(ROOT / f"scripts/{name}.py"), run_name="__main__")
        except SystemExit as ended:
            if ended.code:
                raise SystemExit(errors.getvalue() if ended.code == 2 else ended.code) from None
        finally:
            torch.set_float32_matmul_precision(precision)  # else it would be other tests' too
    return errors.getvalue()


def call_with_threads(count: int, command: tuple[str | Path, ...]) -> None:
    """`call` in a process of its own, whose sums are those of another with as many threads."""
    torch.set_num_threads(count)
    call(*map(str, command))


def call_and_die(log: Path, lines: int, pause: float, threads: int, command: tuple[str | Path, ...]) -> None:
    """Run `call`; when its log has `lines` lines, wait `pause` seconds and kill this process.

    The process kills itself: a busy machine delays the training and the kill alike.
    """

    def die() -> None:
        while not (log.exists() and log.read_bytes().count(b"\n") >= lines):
            time.sleep(0.002)
        time.sleep(pause)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=die, daemon=True).start()
    call_with_threads(threads, command)


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (18, 20, 3), np.uint8))


def write_pictures(folder: Path) -> Path:
    """Two classes, three pictures each to train and one to validate."""
    for index in range(8):
        split = "train" if index < 6 else "validation"
        path = folder / split / ("n01443537 goldfish", "bee")[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(index).save(path)
    return folder


def recipe(folder: Path) -> None:
    """The four steps of `make train-tiny`."""
    tokenizer, tokens, randar = folder / "tokenizer", folder / "tokens", folder / "randar"
    call("train_tokenizer", "--data", folder / "data", "--out", tokenizer, *TOKENIZER_SIZES, *TOKENIZER_RECIPE)
    call("tokenize_images", "--data", folder / "data", "--tokenizer", tokenizer / "model", "--out", tokens)
    call("train_randar", "--tokens", tokens, "--out", randar, *RANDAR_SIZES, *RANDAR_RECIPE)
    parts = ["--transformer", randar / "model", "--tokens", tokens]
    call("assemble_model", *parts, "--out", folder / "model", "--layers", "1", "--steps", "4")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    write_pictures(folder / "data")
    recipe(folder)
    return folder


def test_the_recipe_makes_a_model(done: Path):
    model = load_model(done / "model", device="cpu")
    assert model.classes == ["bee", "goldfish"]
    assert (model.image_size, model.transformer.config.num_tokens) == (16, 16)
    assert (model.recommended_layers, model.recommended_steps) == ([1], 4)
    tokens = generate(model.transformer, torch.tensor([0, 1]), steps=4, generator=torch.Generator().manual_seed(0))
    assert model.tokenizer.decode(tokens).shape == (2, 3, 16, 16)
    assert read_log(done / "tokenizer")[-1]["step"] == read_log(done / "randar")[-1]["step"] == 6
    assert len(TokenStore(done / "tokens/train")) == 6
    assert len(TokenStore(done / "tokens/validation")) == 2


def test_objectives_are_compared(done: Path, tmp_path: Path):
    for index in range(32):
        path = tmp_path / "labelled" / f"class {index % 2}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(index).save(path)
    teacher = ["--tokens", done / "tokens", "--data", done / "data", "--network", "timm:resnet18?random@64"]
    call("teacher_maps", *teacher, "--channels", "8")
    probe = ["--tokens", done / "tokens", "--probe", tmp_path / "labelled", "--out", tmp_path / "runs"]
    variants = ["--variants", "plain", "alignment_self_distillation_twice"]
    overrides = ["initial=null", "ema_decay=0", "loop.log_every=1", *RANDAR_SIZES, "model.num_layers=3", *RANDAR_RECIPE]
    call("train_objectives", *probe, *variants, "--change", *overrides)
    plain, both = read_result(tmp_path / "runs")["results"]
    assert (plain["variant"], both["variant"]) == ("plain", "alignment_self_distillation_twice")
    assert 0 <= plain["ridge_reverse_image"] <= 100 and plain["validation_loss"] > 0
    assert {"alignment_loss", "self_distillation_loss"} <= both.keys() - plain.keys()


def test_latents_of_the_tokens_own_tokenizer_are_a_teacher(done: Path, tmp_path: Path):
    """Shifted, rotated and scaled by one number, so that cells keep the angles between them."""
    call(
        "teacher_maps", "--tokens", done / "tokens", "--data", done / "data", "--network", "latents", "--out", tmp_path
    )
    maps = TeacherMaps(tmp_path, TokenStore(done / "tokens/train"))
    tokenizer, size = load_tokenizer(done / "tokens/tokenizer", "cpu")
    assert maps.about["network"] == "latents" and maps.about["weights"] == tokenizer_hash(tokenizer)
    [batch] = open_images(done / "data", split="train").batches(size, 6)
    latents = tokenizer.latents(batch.pixels).permute(0, 2, 3, 1).flatten(0, 2).double()
    written = maps.batch(torch.arange(6), torch.zeros(6, dtype=torch.long)).flatten(0, 2).double()
    cosines = [values @ values.T / (values @ values.T).norm() for values in (latents - latents.mean(0), written)]
    assert torch.allclose(*cosines, atol=1e-3)


def test_both_bundled_models_are_trained_in_a_given_time(done: Path, tmp_path: Path):
    teacher = ["--tokens", done / "tokens", "--data", done / "data", "--network", "timm:resnet18?random@64"]
    call("teacher_maps", *teacher, "--channels", "8")
    folders = ["--tokens", done / "tokens", "--work", tmp_path / "runs", "--out", tmp_path / "models"]
    sizes = [*RANDAR_SIZES, "model.num_layers=3", *RANDAR_RECIPE, "hardware.mixed_precision=no"]
    call("train_bundled", *folders, "--minutes", "0.05", "--change", *sizes, "total_steps=9")
    for name in ("randar-tiny", "randar-tiny-aligned"):
        assert load_model(tmp_path / "models" / name, device="cpu").classes == ["bee", "goldfish"]
        config = json.loads((tmp_path / "models" / name / "config.json").read_text())
        assert ("teacher" in config) == name.endswith("aligned")
        assert 1 <= config["training"]["total_steps"] <= 9


def test_every_checkpoint_is_a_model(done: Path):
    [folder] = (done / "randar/checkpoints").iterdir()
    model = load_model(folder, device="cpu")
    exported = load_model(done / "model", device="cpu")
    assert model.classes == ["bee", "goldfish"]
    assert same(dict(model.transformer.state_dict()), dict(exported.transformer.state_dict()))
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model.tokenizer.encode(images), exported.tokenizer.encode(images))
    assert all(path.stat().st_size < 16 << 20 for path in folder.iterdir())


def test_the_recipe_run_again_changes_nothing(done: Path):
    files = [path for path in done.rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    times = {path: path.stat().st_mtime_ns for path in files if "tokens/train" in str(path) and path.suffix != ".json"}
    recipe(done)
    assert {path: path.read_bytes() for path in done.rglob("*") if path.is_file()} == before
    assert times == {path: path.stat().st_mtime_ns for path in times}


def test_an_unfinished_stage_says_so_and_continues(done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    runs = {
        "train_tokenizer": ["--data", done / "data", "--out", tmp_path / "a", *TOKENIZER_SIZES, *TOKENIZER_RECIPE],
        "tokenize_images": ["--data", done / "data", "--tokenizer", done / "tokenizer/model", "--out", tmp_path / "c"],
        "train_randar": ["--tokens", done / "tokens", "--out", tmp_path / "b", *RANDAR_SIZES, *RANDAR_RECIPE],
    }
    for name, arguments in runs.items():
        with pytest.raises(SystemExit) as stopped:
            call(name, *arguments, "--max-minutes", "0")
        assert stopped.value.code == UNFINISHED == 75
        assert not (Path(arguments[3]) / "model").exists()  # weights that are not trained look like those that are
        assert "not finished: run the command again" in capsys.readouterr().out
        call(name, *arguments)
    assert read_log(tmp_path / "a") == read_log(done / "tokenizer")
    assert read_log(tmp_path / "b") == read_log(done / "randar")
    for split in ("train", "validation"):
        files = {path.name: path.read_bytes() for path in (tmp_path / "c" / split).iterdir()}
        assert files == {path.name: path.read_bytes() for path in (done / "tokens" / split).iterdir()}


def test_decoding_stage_step_loss_and_end_are_told_without_a_terminal(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("randar_features.training.log.FIRST_SECONDS", 0.0)
    folders = ["--data", done / "data", "--out", tmp_path / "tokenizer"]
    told = call("train_tokenizer", *folders, *TOKENIZER_SIZES, *TOKENIZER_RECIPE)
    decoding, stages = told.split("tokenizer: 0 of 6 steps", 1)
    assert re.search(r"decoding train: .*6/6.*decoding validation: .*2/2", decoding, re.DOTALL)
    assert re.search(r"tokenizer: step 1 of 6, loss [\d.]+, .*done in [\w ]+, at \d\d:\d\d", stages)
    assert re.search(r"tokenizer: step 6 of 6, loss [\d.]+", stages)


def test_make_says_how_long_the_recipe_takes():
    command = ["make", "--dry-run", "train-tiny", "MINUTES=3"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "about 2 h 45 min" in told and "This call ends after 3 min" in told


def test_tokens_of_an_unfinished_tokenizer_are_refused(done: Path, tmp_path: Path):
    shutil.copytree(done / "tokenizer/model", tmp_path / "model")
    (tmp_path / "model/unfinished.json").write_text('{"step": 2, "total_steps": 6}')
    with pytest.raises(SystemExit, match="stopped at step 2 of 6"):
        call("tokenize_images", "--data", done / "data", "--tokenizer", tmp_path / "model", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_parts_of_two_runs_are_refused(done: Path, tmp_path: Path):
    other = write_folder(tmp_path / "other")
    parts = ["--tokenizer", other, "--transformer", done / "randar/model", "--tokens", done / "tokens"]
    with pytest.raises(SystemExit, match="tokens made with tokenizer"):
        call("assemble_model", *parts, "--out", tmp_path / "model")
    with pytest.raises(SystemExit, match="holds tokens made by tokenizer"):
        call("tokenize_images", "--data", done / "data", "--tokenizer", other, "--out", done / "tokens")


def test_class_names_from_a_file(done: Path, tmp_path: Path):
    (tmp_path / "names.json").write_text(json.dumps(["Biene", "Goldfisch"]))
    parts = ["--tokenizer", done / "tokenizer/model", "--transformer", done / "randar/model"]
    parts += ["--tokens", done / "tokens", "--classes", tmp_path / "names.json"]
    call("assemble_model", *parts, "--out", tmp_path / "model")
    assert load_model(tmp_path / "model", device="cpu").classes == ["Biene", "Goldfisch"]


def png(seed: int) -> bytes:
    file = io.BytesIO()
    picture(seed).save(file, "PNG")
    return file.getvalue()


def test_parquet_files_in_the_form_of_the_hub(tmp_path: Path):
    names = ["n01443537 goldfish", "n02206856 bee"]
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    (tmp_path / "data").mkdir()
    for split, seeds in (("train", (0, 1, 2)), ("validation", (3,))):
        images = [{"bytes": png(seed), "path": None} for seed in seeds]
        table = pyarrow.table({"image": images, "label": [seed % 2 for seed in seeds]})
        table = table.replace_schema_metadata(metadata)
        pyarrow.parquet.write_table(table, tmp_path / f"data/{split}-00000-of-00001.parquet")
    folder, out = write_folder(tmp_path / "tokenizer"), tmp_path / "out"
    call("tokenize_images", "--data", tmp_path / "data", "--tokenizer", folder, "--out", out)
    store = TokenStore(out / "train")
    tokenizer, image_size = load_tokenizer(folder, device="cpu")
    assert image_size == IMAGE_SIZE
    assert store.manifest["tokenizer"] == tokenizer_hash(tokenizer)
    assert store.manifest["label_names"] == names
    assert store.labels.tolist() == [0, 1, 0]
    assert len(TokenStore(out / "validation")) == 1


def test_a_typo_is_an_error_before_anything_is_written(done: Path, tmp_path: Path):
    with pytest.raises(SystemExit, match=r"--learning_rat.*--learning-rate"):
        call("train_randar", "--tokens", done / "tokens", "--out", tmp_path / "run", "learning_rat=1")
    with pytest.raises(SystemExit, match=r"^error: .*train/manifest\.json is missing"):
        call("train_randar", "--tokens", tmp_path, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_kill_9_at_a_random_moment_changes_nothing(tmp_path: Path):
    """Of 36 steps with a line of log every 3 and a checkpoint every 15, it dies somewhere in 6 … 24."""
    for split in ("train", "validation"):
        write_store(tmp_path / "tokens" / split, random_tokens(num_tokens=64))
    arguments = ["--tokens", str(tmp_path / "tokens"), *RANDAR_SIZES, *RANDAR_RECIPE, "total_steps=36"]
    arguments += ["loop.log_every=3", "loop.checkpoint_every=15", "hardware.mixed_precision=no"]
    moment = random.Random(0)
    lines, pause = moment.randint(2, 8), moment.uniform(0, 0.02)
    log = tmp_path / "killed/log.jsonl"
    command = ("train_randar", "--out", tmp_path / "killed", *arguments)
    process = FRESH.Process(
        target=call_and_die, args=(log, lines, pause, torch.get_num_threads(), command), daemon=True
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert read_log(tmp_path / "killed")[-1]["step"] < 36

    for folder in ("killed", "whole"):
        call("train_randar", "--out", tmp_path / folder, *arguments)
    saved = [newest_checkpoint(tmp_path / folder / "checkpoints") for folder in ("killed", "whole")]
    assert saved[0] and saved[1]
    assert saved[0].step == 36
    assert same(saved[0].state(), saved[1].state())
    assert read_log(tmp_path / "killed") == read_log(tmp_path / "whole")
    weights = [(tmp_path / folder / "model/model.safetensors").read_bytes() for folder in ("killed", "whole")]
    assert weights[0] == weights[1]


def test_the_script_of_kills_finds_equal_folders_equal_and_others_different(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "argv", ["tests.kill", "--kills", "1", "--jobs", "pixels"])
    monkeypatch.setenv("RANDAR_CACHE", "")  # what the script sets goes afterwards
    with pytest.raises(SystemExit) as ended:
        kill_script()
    assert not ended.value.code and "1 kills, 0 faults" in capsys.readouterr().out

    def write(inputs: Path, folder: Path) -> None:
        (folder / "a").write_text("as it should be")

    count = Count()
    compare(Job(write), tmp_path, tmp_path, {"a": b"otherwise", "b": b""}, count)
    assert (count.differing, count.lost, count.left_over) == ([f"{tmp_path.name}/a"], [f"{tmp_path.name}/b"], [])
