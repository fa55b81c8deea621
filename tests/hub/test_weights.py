from __future__ import annotations

import argparse
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from randar_features.hub.weights import USUAL_KEY, build_empty, file_hash, load_weights, read_state_dict
from randar_features.models import RandAR, RandARConfig
from tests.small_models import TRANSFORMER, small_tokenizer, small_transformer

TOKENS = torch.arange(32).view(2, 16) % 40


def empty() -> RandAR:
    return build_empty(lambda: RandAR(RandARConfig(**TRANSFORMER)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_file(small_transformer().state_dict(), tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_round_trip_gives_equal_logits_in_evaluation_mode_without_gradients(path: Path) -> None:
    model = empty()
    load_weights(model, path)
    torch.testing.assert_close(model(TOKENS), small_transformer()(TOKENS), rtol=0, atol=0)
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_rotary_angles_are_float32_and_exact_whatever_the_dtype(path: Path) -> None:
    model = empty()
    load_weights(model, path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert torch.equal(model.rotary, small_transformer().rotary)


def test_half_precision_files_become_float32(tmp_path: Path) -> None:
    halves = {name: value.half() for name, value in small_transformer().state_dict().items()}
    save_file(halves, tmp_path / "half.safetensors")
    model = empty()
    load_weights(model, tmp_path / "half.safetensors")
    assert model.output.weight.dtype == torch.float32
    assert torch.equal(model.output.weight, halves["output.weight"].float())


def test_a_path_may_be_a_string(path: Path) -> None:
    model = empty()
    load_weights(model, str(path))
    assert torch.equal(model.output.weight, read_state_dict(str(path))["output.weight"])
    with pytest.raises(ValueError, match=r"model\.safetensors does not fit its model"):
        load_weights(torch.nn.Linear(2, 2), str(path))


def test_loading_draws_no_random_numbers(path: Path) -> None:
    before = torch.get_rng_state()
    load_weights(empty(), path)
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_stay_when_the_file_is_written_over(path: Path) -> None:
    model = empty()
    load_weights(model, path)
    with path.open("r+b") as file:
        file.write(b"\xff" * os.path.getsize(path))
    assert torch.equal(model.output.weight, small_transformer().output.weight)


def test_missing_unexpected_and_misshapen_tensors_are_listed_together(path: Path) -> None:
    state = load_file(path)
    del state["layers.1.ffn_norm.weight"]
    state["freqs_cis"] = torch.zeros(3, 2)
    state["output.weight"] = torch.zeros(41, 32)
    save_file(state, path)
    with pytest.raises(ValueError) as caught:
        load_weights(empty(), path)
    message = str(caught.value)
    assert str(path) in message and f"{len(state)} tensors given, {len(state)} expected" in message
    assert "1 missing: layers.1.ffn_norm.weight (32,)" in message
    assert "1 unexpected: freqs_cis (3, 2)" in message
    assert "1 of another shape: output.weight is (41, 32), expected (40, 32)" in message


def test_a_long_list_of_missing_tensors_is_cut_and_counted(path: Path) -> None:
    save_file({"norm.weight": torch.ones(32)}, path)
    with pytest.raises(ValueError, match=r"\(1 tensors given, 26 expected\): 25 missing: .*; and 20 more\."):
        load_weights(empty(), path)


def test_only_the_usage_counter_may_be_missing(tmp_path: Path) -> None:
    original = small_tokenizer()
    state = original.state_dict()
    del state["quantize.codebook_used"]
    save_file(state, tmp_path / "tokenizer.safetensors")
    tokenizer = small_tokenizer(seed=1)
    load_weights(tokenizer, tmp_path / "tokenizer.safetensors")
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(tokenizer.encode(images), original.encode(images))
    assert tokenizer.state_dict()["quantize.codebook_used"].count_nonzero() == 0


@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_of_tensors_are_read_in_both_of_pytorchs_formats(tmp_path: Path, zipped: bool) -> None:
    weights = small_transformer().state_dict()
    content = {"model": weights, "args": argparse.Namespace(lr=1e-4), "steps": 7}
    torch.save(content, tmp_path / "weights.pt", _use_new_zipfile_serialization=zipped)
    state = read_state_dict(tmp_path / "weights.pt", key="model")
    assert state.keys() == weights.keys()
    assert all(torch.equal(state[name], weights[name]) for name in weights)


class Attack:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_is_refused_and_nothing_runs(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "weights.pt"
    content = {"model": {"norm.weight": torch.ones(3)}, "more": Attack(tmp_path / "ran")}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"weights\.pt is not a pickle of plain tensors: it calls \w+\.mkdir"):
        read_state_dict(path, key="model")
    assert not (tmp_path / "ran").exists()


def test_a_missing_key_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    torch.save({"ema": {}, "optimizer": {}}, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match="under the key 'model'; it holds ema; optimizer"):
        read_state_dict(tmp_path / "weights.pt", key="model")


def test_a_pickle_of_something_else_is_refused(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"expected a state dict, names to tensors, in .*weights\.pt"):
        read_state_dict(tmp_path / "weights.pt")


@pytest.mark.parametrize(
    "content", [b"", b"not a pickle", b"PK\x03\x04 torn", b"version https://git-lfs", b"<html>", b"hello, text"]
)
@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_damaged_files_are_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        read_state_dict(tmp_path / name)


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_truncated_files_are_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    (save_file if path.suffix == ".safetensors" else torch.save)(small_transformer().state_dict(), path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        read_state_dict(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no file .*nowhere\.safetensors"):
        read_state_dict(tmp_path / "nowhere.safetensors")


def test_hash_is_sha256_and_the_hub_caches_blob_name_saves_reading(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_hash(tmp_path / "file") == digest
    blob = tmp_path / "blobs" / ("0" * 64)
    blob.parent.mkdir()
    blob.write_bytes(b"abc")
    (tmp_path / "link").symlink_to(blob)
    assert file_hash(tmp_path / "link") == "0" * 64


@pytest.mark.parametrize("key", [None, "model", "module", "state_dict"])
def test_where_the_key_is_not_known_the_usual_ones_are_tried(tmp_path: Path, key: str | None) -> None:
    weights = small_transformer().state_dict()
    torch.save(weights if key is None else {"step": 3, key: weights}, tmp_path / "weights.pt")
    state = read_state_dict(tmp_path / "weights.pt", key=USUAL_KEY)
    assert list(state) == list(weights) and torch.equal(state["output.weight"], weights["output.weight"])


@pytest.mark.parametrize(
    ("value", "message"), [(float("nan"), "NaN"), (float("inf"), "infinite"), (float("-inf"), "infinite")]
)
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, value: float, message: str) -> None:
    module = small_transformer()
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    name = next(iter(state))
    state[name].view(-1)[-1] = value
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=message) as error:
        load_weights(module, tmp_path / "model.safetensors")
    assert name in str(error.value) and "model.safetensors" in str(error.value)


def test_large_finite_weights_are_taken(tmp_path: Path) -> None:
    """A float32 sum of them overflows; none of them is infinite."""
    module = small_transformer()
    state = {name: torch.full_like(tensor, 3e38) for name, tensor in module.state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    load_weights(module, tmp_path / "model.safetensors")


def test_integer_weights_are_refused(tmp_path: Path) -> None:
    module = small_transformer()
    state = dict(module.state_dict())
    name = next(iter(state))
    state[name] = torch.ones_like(state[name], dtype=torch.int32)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=f"{name}.*int32"):
        load_weights(module, tmp_path / "model.safetensors")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("name", ["a.safetensors", "a.pt"])
def test_prefixes_of_wrappers_are_left_out(tmp_path: Path, prefix: str, name: str) -> None:
    state = {prefix + key: value for key, value in small_transformer().state_dict().items()}
    save_file(state, tmp_path / name) if name.endswith("safetensors") else torch.save({"model": state}, tmp_path / name)
    model = empty()
    load_weights(model, tmp_path / name, key=USUAL_KEY)
    assert torch.equal(model.output.weight, small_transformer().output.weight)


def test_a_prefix_of_some_names_alone_stays(tmp_path: Path) -> None:
    save_file({"module.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "a.safetensors")
    assert read_state_dict(tmp_path / "a.safetensors").keys() == {"module.a", "b"}


@pytest.mark.parametrize("key", ["ema", "model_ema", "EMA", "ema_model", "params_ema"])
def test_averaged_weights_are_preferred(tmp_path: Path, key: str) -> None:
    averaged = small_transformer().state_dict()
    raw = {name: value + 1 for name, value in averaged.items()}
    torch.save({"model": raw, "decay": 0.9, key: averaged}, tmp_path / "a.pt")
    model = empty()
    load_weights(model, tmp_path / "a.pt", key=USUAL_KEY)
    assert torch.equal(model.output.weight, averaged["output.weight"])
    torch.save({"model": averaged, key: {"decay": 0.9, "shadow": raw}}, tmp_path / "b.pt")  # no state dict
    with pytest.warns(UserWarning, match=rf"b\.pt: 'model' is read, since '{key}' is no state dict"):
        load_weights(model, tmp_path / "b.pt", key=USUAL_KEY)
    assert torch.equal(model.output.weight, averaged["output.weight"])


def test_pytorchs_averaged_model(tmp_path: Path) -> None:
    state = small_transformer().state_dict()
    torch.save(
        {"n_averaged": torch.tensor(5)} | {f"module.{name}": value for name, value in state.items()}, tmp_path / "a.pt"
    )
    assert read_state_dict(tmp_path / "a.pt").keys() == state.keys()


def test_weights_beyond_the_range_of_the_format_are_refused(tmp_path: Path) -> None:
    state = {name: value.double() for name, value in small_transformer().state_dict().items()}
    state["output.weight"][0, 0] = 1e5
    torch.save(state, tmp_path / "a.pt")
    load_weights(empty(), tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a\.pt holds weights beyond the range of torch.float16: output.weight"):
        load_weights(empty(), tmp_path / "a.pt", dtype=torch.float16)


def test_a_pickle_of_other_keys_says_which(tmp_path: Path) -> None:
    torch.save({"network": small_transformer().state_dict(), "epoch": 3}, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="it holds network; epoch"):
        load_weights(empty(), tmp_path / "a.pt", key=USUAL_KEY)
