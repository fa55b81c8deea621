from __future__ import annotations

import copy
import functools
import importlib
import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError, RevisionNotFoundError
from safetensors.torch import load_file, save_file
from torch import nn

import randar_features as rf
from randar_features.hub import choose_device, registry
from randar_features.hub.files import HubUnreachableError
from randar_features.hub.load import _sum_of_bits
from randar_features.hub.registry import ALIASES, PUBLISHED, HubFile
from randar_features.hub.weights import build_empty, read_state_dict
from randar_features.models import ARCHITECTURES, ImageTransformer, RandAR, RandARConfig
from randar_features.tokenizers import LlamaGenTokenizer, MaskGITTokenizer
from tests.small_models import (
    IMAGE_SIZE,
    TRANSFORMER,
    put_in_cache,
    small_published,
    small_tokenizer,
    small_transformer,
    write_folder,
    write_published,
)

GOLDEN = Path(__file__).parents[1] / "golden"
TOKENS = torch.arange(32).view(2, 16) % 40
IMAGES = torch.rand(2, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(0))
COMMIT, TOKENIZER_COMMIT, OTHER_COMMIT = "a" * 40, "b" * 40, "c" * 40
ALL_NAMES = [*PUBLISHED, *ALIASES]


@functools.cache
def expected_logits(architecture: str) -> torch.Tensor:
    return small_transformer(architecture=architecture)(TOKENS)


@functools.cache
def expected_tokens_and_images(kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    tokenizer = small_tokenizer(kind)
    tokens = tokenizer.encode(IMAGES)
    return tokens, tokenizer.decode(tokens)


def assert_is_small(model: rf.Model, kind: str = "llamagen") -> None:
    """The small transformer and tokenizer, to the bit."""
    logits = expected_logits(type(model.transformer).__name__.lower())
    torch.testing.assert_close(model.transformer(TOKENS), logits, rtol=0, atol=0)
    tokens, images = expected_tokens_and_images(kind)
    assert torch.equal(model.tokenizer.encode(IMAGES), tokens)
    torch.testing.assert_close(model.tokenizer.decode(tokens), images, rtol=0, atol=0)


@pytest.fixture
def small_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published names, repositories, files and formats at the small models' sizes."""
    for name, source in PUBLISHED.items():
        monkeypatch.setitem(PUBLISHED, name, small_published(source))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_names: None) -> Path:
    """An empty Hub cache, and no network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def hub_files(name: str) -> tuple[HubFile, HubFile]:
    files = PUBLISHED[ALIASES.get(name, name)].files
    transformer, tokenizer = files["transformer"], files["tokenizer"]
    assert isinstance(transformer, HubFile) and isinstance(tokenizer, HubFile)
    return transformer, tokenizer


def fill_cache(cache: Path, name: str, commit: str = COMMIT, reference: str = "main") -> None:
    local = cache.parent / "published"
    write_published(local, PUBLISHED[ALIASES.get(name, name)])
    transformer, tokenizer = hub_files(name)
    put_in_cache(cache, transformer.repository, commit, local / transformer.filename, reference)
    if reference == "main":
        put_in_cache(cache, tokenizer.repository, tokenizer_commit(name), local / tokenizer.filename)


def tokenizer_commit(name: str) -> str:
    """LlamaGen's is in the repository of its transformers."""
    transformer, tokenizer = hub_files(name)
    return COMMIT if tokenizer.repository == transformer.repository else TOKENIZER_COMMIT


# Published names and sizes


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name.startswith("randar")])
def test_published_transformer_has_the_published_names_shapes_and_size(name: str) -> None:
    state = published_transformer(name).state_dict()
    expected = json.loads((GOLDEN / f"{name.replace('-', '_')}_state_dict.json").read_text())
    assert {key: list(value.shape) for key, value in state.items()} == expected
    assert sum(map(math.prod, expected.values())) == PUBLISHED[name].parameters


def test_published_parameter_counts() -> None:
    in_millions = {name: round((source.parameters or 0) / 1e6) for name, source in PUBLISHED.items()}
    assert in_millions == {
        "randar-l-llamagen": 343,
        "randar-l-maskgit": 311,
        "randar-xl-llamagen": 775,
        "llamagen-b": 111,
        "llamagen-l": 343,
        "llamagen-b-384": 111,
        "llamagen-l-384": 343,
        "llamagen-xl-384": 775,
        "llamagen-xxl-384": 1411,
        "par-xl-4x": 775,
        "par-xxl-4x": 1411,
        "par-3b-4x": 3097,
        "arpg-l": 320,
        "arpg-xl": 719,
        "arpg-xxl": 1302,
    }


@pytest.mark.parametrize("name", ["llamagen-b", "arpg-l"])
def test_parameters_are_those_of_the_built_model(name: str) -> None:
    assert (
        sum(parameter.numel() for parameter in published_transformer(name).parameters()) == PUBLISHED[name].parameters
    )


def published_transformer(name: str) -> ImageTransformer:
    """Of the published size, without weights."""
    options = dict(PUBLISHED[name].config["transformer"])
    build, sizes = ARCHITECTURES[options.pop("type")]
    return build_empty(lambda: build(sizes(**options)))


def test_published_files() -> None:
    assert [str(file) for file in hub_files("randar-l-llamagen")] == [
        "ziqipang/RandAR/randar_0.3b_llamagen_360k_bs_1024_lr_0.0004.safetensors",
        "FoundationVision/LlamaGen/vq_ds16_c2i.pt",
    ]
    assert [str(file) for file in hub_files("randar-l-maskgit")] == [
        "ziqipang/RandAR/randar_0.3b_maskgit_360k_bs_1024_lr_0.0004.safetensors",
        "fun-research/TiTok/maskgit-vqgan-imagenet-f16-256.bin",
    ]
    assert [str(file) for file in hub_files("randar-xl-llamagen")] == [
        "ziqipang/RandAR/randar_0.7b_llamagen_360k_bs_1024_lr_0.0004.safetensors",
        "FoundationVision/LlamaGen/vq_ds16_c2i.pt",
    ]
    assert hub_files("randar-xl-llamagen")[1].key == "model" and hub_files("randar-l-maskgit")[1].key is None
    sisters = {name: str(hub_files(name)[0]) for name in PUBLISHED if not name.startswith("randar")}
    assert sisters == {
        "llamagen-b": "FoundationVision/LlamaGen/c2i_B_256.pt",
        "llamagen-l": "FoundationVision/LlamaGen/c2i_L_256.pt",
        "llamagen-b-384": "FoundationVision/LlamaGen/c2i_B_384.pt",
        "llamagen-l-384": "FoundationVision/LlamaGen/c2i_L_384.pt",
        "llamagen-xl-384": "FoundationVision/LlamaGen/c2i_XL_384.pt",
        "llamagen-xxl-384": "FoundationVision/LlamaGen/c2i_XXL_384.pt",
        "par-xl-4x": "Epiphqny/PAR/PAR-XL-4x.pt",
        "par-xxl-4x": "Epiphqny/PAR/PAR-XXL-4x.pt",
        "par-3b-4x": "Epiphqny/PAR/PAR-3B-4x.pt",
        "arpg-l": "hp-l33/ARPG/arpg_300m.pt",
        "arpg-xl": "hp-l33/ARPG/arpg_700m.pt",
        "arpg-xxl": "hp-l33/ARPG/arpg_1b.pt",
    }
    grids = {name: PUBLISHED[name].config["transformer"]["num_tokens"] for name in sisters}
    assert {name for name, count in grids.items() if count == 576} == {
        name for name in sisters if name.endswith(("384", "4x"))
    }


@pytest.mark.parametrize(("kind", "build"), [("llamagen", LlamaGenTokenizer), ("maskgit", MaskGITTokenizer)])
def test_published_tokenizers_have_the_published_names_and_shapes(
    kind: str, build: Callable[[], torch.nn.Module]
) -> None:
    expected = json.loads((GOLDEN / f"tokenizer_{kind}_state_dict.json").read_text())
    state = build_empty(build).state_dict()
    assert {key: list(value.shape) for key, value in state.items()} == {
        key: shape for key, (shape, _) in expected.items()
    }


# The Hub


@pytest.mark.parametrize("name", ALL_NAMES)
def test_models_load_from_the_hubs_cache_offline(cache: Path, name: str) -> None:
    fill_cache(cache, name)
    model = rf.load_model(name)
    assert_is_small(model, "maskgit" if "maskgit" in name else "llamagen")
    assert model.name == ALIASES.get(name, name)
    assert (model.revision, model.tokenizer_revision) == (COMMIT, tokenizer_commit(name))
    assert model.image_size == IMAGE_SIZE


@pytest.mark.parametrize("revision", ["paper", OTHER_COMMIT])
def test_a_revision_is_a_tag_or_a_commit_of_the_transformers_repository(cache: Path, revision: str) -> None:
    fill_cache(cache, "randar-l")
    weights = small_transformer(seed=1)
    transformer, _ = hub_files("randar-l")
    other = cache.parent / transformer.filename
    save_file(weights.state_dict(), other)
    put_in_cache(cache, transformer.repository, OTHER_COMMIT, other, "paper")
    model = rf.load_model(f"randar-l@{revision}")
    assert torch.equal(model.transformer(TOKENS), weights(TOKENS))
    assert (model.revision, model.tokenizer_revision) == (OTHER_COMMIT, TOKENIZER_COMMIT)
    unpinned = rf.load_model("randar-l")
    assert unpinned.revision == COMMIT and unpinned.weights_hash != model.weights_hash


def test_offline_and_not_cached_says_what_is_missing_and_what_to_do(cache: Path) -> None:
    transformer, _ = hub_files("randar-xl")
    with pytest.raises(FileNotFoundError) as caught:
        rf.load_model("randar-xl@v2")
    by_hand = (
        "https://huggingface.co/ziqipang/RandAR/resolve/v2/",
        "/FoundationVision/LlamaGen/resolve/main/vq_ds16_c2i.pt",
    )
    for part in (str(transformer), "revision v2", "HF_HUB_OFFLINE", "HF_HOME", "local folder", *by_hand):
        assert part in str(caught.value)


def test_offline_with_the_tokenizer_alone_missing_names_its_file(cache: Path) -> None:
    fill_cache(cache, "randar-l")
    with pytest.raises(FileNotFoundError, match=r"fun-research/TiTok/maskgit-vqgan-imagenet-f16-256\.bin"):
        rf.load_tokenizer("randar-l-maskgit")


def test_environment_variables_of_the_hub_are_honoured(
    small_names: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_cache(tmp_path / "hub", "randar-l")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    try:
        importlib.reload(constants)  # which reads them, in a user's process when it starts
        assert rf.load_model("randar-l").revision == COMMIT
        with pytest.raises(HubUnreachableError, match=r"ziqipang/RandAR/randar_0\.7b_llamagen"):
            rf.load_model("randar-xl")
    finally:
        monkeypatch.undo()
        importlib.reload(constants)


def test_what_is_not_cached_is_downloaded(small_names: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_published(tmp_path, PUBLISHED["randar-l-maskgit"])
    calls: list[tuple[str, str, str, bool]] = []

    def download(repository: str, filename: str, *, revision: str, local_files_only: bool = False) -> str:
        calls.append((repository, filename, revision, local_files_only))
        if local_files_only:
            raise LocalEntryNotFoundError("not cached")
        return str(tmp_path / filename)

    monkeypatch.setattr("randar_features.hub.files.why_out_of_reach", lambda: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    model = rf.load_model("randar-l-maskgit@v1")
    assert_is_small(model, "maskgit")
    assert (model.revision, model.tokenizer_revision) == ("v1", "main")
    transformer, tokenizer = hub_files("randar-l-maskgit")
    assert calls == [
        (transformer.repository, transformer.filename, "v1", True),
        (transformer.repository, transformer.filename, "v1", False),
        (tokenizer.repository, tokenizer.filename, "main", True),
        (tokenizer.repository, tokenizer.filename, "main", False),
    ]


def test_a_revision_that_the_hub_does_not_know_is_named(small_names: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*_: str, revision: str, local_files_only: bool = False) -> str:
        if local_files_only:
            raise LocalEntryNotFoundError("not cached")
        error = RevisionNotFoundError.__new__(RevisionNotFoundError)
        Exception.__init__(error, "404 Client Error.\n\nRevision Not Found for url: …")
        raise error

    monkeypatch.setattr("randar_features.hub.files.why_out_of_reach", lambda: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(FileNotFoundError, match=r"at revision nope: 404 Client Error\.\. A revision is a branch"):
        rf.load_model("randar-l@nope")


def put_repository(cache: Path, folder: Path, commit: str, reference: str) -> None:
    for file in folder.iterdir():
        put_in_cache(cache, "someone/my.model", commit, file, reference)


def test_a_repository_of_the_hub_loads_by_its_name(cache: Path, tmp_path: Path) -> None:
    put_repository(cache, write_folder(tmp_path / "first", recommended={"steps": 5}), OTHER_COMMIT, "v1")
    (write_folder(tmp_path / "second", "maskgit") / "classes.json").write_text('["a", "b", "c"]')
    put_repository(cache, tmp_path / "second", COMMIT, "main")
    model = rf.load_model("someone/my.model")
    assert_is_small(model, "maskgit")
    assert (model.name, model.revision, model.tokenizer_revision) == ("someone/my.model", COMMIT, COMMIT)
    assert model.classes == ["a", "b", "c"]
    older = rf.load_model("someone/my.model@v1")
    assert_is_small(older)
    assert (older.name, older.revision, older.tokenizer_revision) == ("someone/my.model@v1", *[OTHER_COMMIT] * 2)
    assert (older.classes, older.recommended_steps) == (None, 5)
    assert rf.load_tokenizer("someone/my.model")[1] == IMAGE_SIZE


def test_all_files_of_a_repository_come_from_one_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = write_folder(tmp_path / "snapshots" / COMMIT)
    calls: list[tuple[str, str]] = []

    def download(repository: str, filename: str, *, revision: str, local_files_only: bool = False) -> str:
        if local_files_only:
            raise LocalEntryNotFoundError("not cached")
        calls.append((filename, revision))
        if not (snapshot / filename).exists():
            raise LocalEntryNotFoundError("no such file")
        return str(snapshot / filename)

    monkeypatch.setattr("randar_features.hub.files.why_out_of_reach", lambda: None)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert_is_small(rf.load_model("someone/my.model"))
    rest = ("classes.json", "model.safetensors", "tokenizer.safetensors")
    assert calls == [("config.json", "main"), *((name, COMMIT) for name in rest)]


def test_a_folder_goes_before_a_repository(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_folder(Path("someone/my.model"))
    assert rf.load_model("someone/my.model").revision is None


def test_published_files_in_a_plain_folder_load(small_names: None, tmp_path: Path) -> None:
    write_published(tmp_path, PUBLISHED["randar-l-llamagen"])
    model = rf.load_model(tmp_path)
    assert_is_small(model)
    assert (model.name, model.revision) == ("randar-l-llamagen", None)
    write_published(tmp_path, PUBLISHED["randar-l-maskgit"])
    with pytest.raises(FileNotFoundError, match="the files of one published model"):
        rf.load_model(tmp_path)


def test_a_published_pickle_with_code_is_refused(cache: Path) -> None:
    fill_cache(cache, "randar-l")
    _, tokenizer = hub_files("randar-l")
    (link,) = cache.glob(f"*/snapshots/*/{tokenizer.filename}")
    link.resolve().write_bytes(pickle.dumps({"model": {"x": Path("/")}}, protocol=2))
    with pytest.raises(ValueError, match=r"vq_ds16_c2i\.pt is not a pickle of plain tensors"):
        rf.load_model("randar-l")


# Folders and bundled models


@pytest.mark.parametrize("kind", ["llamagen", "maskgit"])
@pytest.mark.parametrize("convert", [str, Path], ids=["str", "Path"])
def test_folders_that_training_wrote_load(tmp_path: Path, kind: str, convert: Callable[[Path], str]) -> None:
    folder = write_folder(tmp_path / "run", kind)
    model = rf.load_model(convert(folder))
    assert_is_small(model, kind)
    assert (model.name, model.revision, model.classes) == (str(folder), None, None)
    assert (model.image_size, model.recommended_layers, model.recommended_steps) == (IMAGE_SIZE, [1], None)


def test_recommendations_and_class_names_come_from_the_folder(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, recommended={"layers": [1, 2], "steps": 9})
    (folder / "classes.json").write_text('["cat", "dog", "crème brûlée"]', encoding="utf-8")
    model = rf.load_model(folder)
    assert (model.recommended_layers, model.recommended_steps) == ([1, 2], 9)
    assert model.transformer.recommended_steps == 9  # which `generate` follows
    assert model.transformer.trained_order == "random"
    assert model.classes == ["cat", "dog", "crème brûlée"]


def test_published_models_recommend_the_middle_block(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_cache(cache, "randar-l")
    config = PUBLISHED["randar-l-llamagen"].config
    monkeypatch.setitem(config["transformer"], "num_layers", 24)
    monkeypatch.setitem(config["transformer"], "num_tokens", 256)
    monkeypatch.setitem(config, "image_size", 64)
    transformer = RandAR(RandARConfig(**{k: v for k, v in config["transformer"].items() if k != "type"}))
    put_weights = next(cache.glob("*RandAR/snapshots/*/*")).resolve()
    save_file(transformer.state_dict(), put_weights)
    model = rf.load_model("randar-l")
    assert (model.recommended_steps, model.recommended_layers) == (None, [11])


def test_a_folder_of_a_tokenizer_alone(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, transformer=None)
    (folder / "model.safetensors").unlink()
    tokenizer, image_size = rf.load_tokenizer(folder)
    assert torch.equal(tokenizer.encode(IMAGES), small_tokenizer().encode(IMAGES))
    assert image_size == IMAGE_SIZE and not tokenizer.training
    with pytest.raises(ValueError, match=r'no "transformer" entry \(it has tokenizer, image_size\)'):
        rf.load_model(folder)


def test_a_folder_of_a_transformer_alone(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, tokenizer=None, image_size=None)
    model = rf.load_model(folder)
    assert torch.equal(model.transformer(TOKENS), small_transformer()(TOKENS))
    for ask in (lambda: model.tokenizer, lambda: model.image_size):
        with pytest.raises(ValueError, match="holds a transformer without a tokenizer"):
            ask()
    with pytest.raises(ValueError, match='no "tokenizer" entry'):
        rf.load_tokenizer(folder)


def test_bundled_models_load_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "randar-tiny")
    monkeypatch.setattr(registry, "ASSETS", tmp_path)
    model = rf.load_model("randar-tiny")
    assert_is_small(model)
    assert model.name == "randar-tiny"
    info = rf.list_models()[0]
    assert (info.name, info.image_size, info.weights) == ("randar-tiny", IMAGE_SIZE, "bundled")
    assert info.parameters == sum(parameter.numel() for parameter in small_transformer().parameters())


def test_a_bundled_model_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "ASSETS", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"lacks the weights of randar-tiny, expected in .*randar-tiny"):
        rf.load_model("randar-tiny")
    assert "missing in this installation" in repr(rf.list_models())


def test_missing_and_misshapen_tensors_in_a_folder_are_listed(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    state = load_file(folder / "model.safetensors")
    del state["norm.weight"]
    state["tok_embeddings.weight"] = torch.zeros(7, 32)
    save_file(state, folder / "model.safetensors")
    with pytest.raises(ValueError) as caught:
        rf.load_model(folder)
    for part in ("model.safetensors", "missing: norm.weight (32,)", "is (7, 32), expected (40, 32)"):
        assert part in str(caught.value)


def test_a_folder_without_weights_names_the_file(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    (folder / "tokenizer.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no file .*tokenizer\.safetensors"):
        rf.load_model(folder)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            {"image_size": 64},
            '"image_size" is 64, but 4x4 tokens at a downsampling factor of 4 make 16 pixels',
        ),
        ({"image_size": "16"}, "\"image_size\" is '16', but .* make 16 pixels"),
        ({"recommended": {"layers": [3]}}, r"config\.json .* is \[3\], expected a list of blocks, 0 to 2"),
        ({"recommended": {"layers": [-1]}}, r"is \[-1\], expected a list of blocks, 0 to 2"),
        ({"recommended": {"layers": "all"}}, r"\"layers\" .* config\.json .* is 'all', expected a list"),
        ({"recommended": {"layers": ["1"]}}, r"\"layers\" .* config\.json .* is \['1'\], expected a list"),
        ({"recommended": {"layers": []}}, r"\"layers\" .* is \[\], expected a list"),
        ({"recommended": {"steps": "9"}}, r"\"steps\" .* config\.json .* is '9', expected an integer, 1 to 16"),
        ({"recommended": {"steps": 0}}, r"\"steps\" .* is 0, expected an integer, 1 to 16"),
        ({"recommended": {"steps": 17}}, r"\"steps\" .* is 17, expected an integer, 1 to 16"),
        ({"training": {"order": "spiral"}}, r"\"order\" .* config\.json .* is 'spiral', expected random or raster"),
        ({"recommended": [1]}, r"\"recommended\" in the config\.json of .* is \[1\], expected an object"),
        (
            {"transformer": {"type": "randar", **TRANSFORMER, "dim": "32"}},
            "\"transformer\" entry .*: dim = '32' must be an integer",
        ),
        (
            {"tokenizer": {"type": "vqvae"}},
            "unknown tokenizer type 'vqvae', expected one of llamagen, maskgit",
        ),
        ({"tokenizer": {"type": "llamagen", "chanels": 32}}, '"tokenizer" entry .*chanels'),
        ({"transformer": {"type": "randar", "dim": 32}}, '"transformer" entry .*num_layers'),
        ({"transformer": {"type": "gpt"}}, "unknown transformer type 'gpt', expected one of randar"),
        ({"transformer": 3}, 'has no "transformer" entry'),
        ({"transformer": TRANSFORMER | {"type": "randar", "num_layers": 900, "dim": 512}}, "more than .* numbers"),
        ({"tokenizer": {"type": "llamagen", "blocks_per_level": 10**6}}, "more than .* numbers"),
        ({"tokenizer": {"type": "llamagen", "channel_multipliers": "12"}}, "channel_multipliers='1'"),
        ({"tokenizer": {"type": "llamagen", "channel_multipliers": [1] * 17}}, "1 to 16 of them"),
    ],
)
def test_configurations_that_cannot_be_are_refused(tmp_path: Path, entries: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rf.load_model(write_folder(tmp_path, **entries))


def test_a_tokenizer_of_another_training_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["tokenizer"]["vocab_size"] = 50
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="the tokenizer has 50 codes, the transformer 40"):
        rf.load_model(folder)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", "{", r"config\.json is not valid JSON"),
        ("config.json", "[]", r"config\.json holds a list, expected an object"),
        ("classes.json", '{"0": "cat"}', r"classes\.json: expected \{name: number\}"),
        ("classes.json", '["cat"]', "has 1 class names for 3 classes"),
    ],
)
def test_files_beside_the_weights_are_checked(tmp_path: Path, file: str, content: str, message: str) -> None:
    folder = write_folder(tmp_path)
    (folder / file).write_text(content)
    with pytest.raises(ValueError, match=message):
        rf.load_model(folder)


# Names


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("randar-tny", "randar-tiny"),
        ("RandAR-XL", "randar-xl"),
        ("randar-l-lamagen@main", "randar-l-llamagen"),
        ("randar-l-maskgan", "randar-l-maskgit"),
    ],
)
@pytest.mark.parametrize("load", [rf.load_model, rf.load_tokenizer])
def test_an_unknown_name_suggests_the_nearest(load: Callable[[str], object], name: str, nearest: str) -> None:
    with pytest.raises(ValueError) as caught:
        load(name)
    assert f"there is no model {name!r}: did you mean {nearest}" in str(caught.value)
    assert "folder" in str(caught.value)


@pytest.mark.parametrize("load", [rf.load_model, rf.load_tokenizer])
@pytest.mark.parametrize("name", [None, 3, b"randar-tiny"])
def test_what_is_neither_name_nor_path_is_refused(load: Callable[[object], object], name: object) -> None:
    with pytest.raises(TypeError, match=rf"^{name!r} is no model: expected a name from list_models\(\)"):
        load(name)


def test_a_name_like_no_other_lists_all() -> None:
    with pytest.raises(ValueError, match="known are randar-tiny, randar-tiny-aligned, randar-l-llamagen"):
        rf.load_model("vgg")


@pytest.mark.parametrize("path", ["runs/nowhere", "./nowhere", "~/nowhere-at-all", Path("randar-l")])
def test_a_path_that_does_not_exist_says_so(cache: Path, path: str | Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist: expected a folder"):
        rf.load_model(path)


def test_a_file_instead_of_its_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors is a file: expected a folder"):
        rf.load_model(write_folder(tmp_path) / "model.safetensors")


def test_a_folder_that_holds_no_model(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(FileNotFoundError, match=r"expected config\.json .* it holds checkpoints"):
        rf.load_model(tmp_path)


def test_a_folder_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_folder(Path("run@3"))
    assert_is_small(rf.load_model("run@3"))
    write_folder(Path("randar-l"))
    assert rf.load_model("./randar-l").revision is None


@pytest.mark.parametrize("name", ["randar-l@", "randar-tiny@main"])
def test_revisions_that_cannot_be(name: str) -> None:
    with pytest.raises(ValueError, match="revision"):
        rf.load_model(name)


def test_list_models_prints_a_table() -> None:
    models = rf.list_models()
    assert [model.name for model in models] == ["randar-tiny", "randar-tiny-aligned", *PUBLISHED]
    lines = str(models).splitlines()
    assert len(lines) == 1 + len(models)
    (line,) = (line for line in lines if line.startswith("randar-xl-llamagen"))
    for part in ("randar-xl ", "774.7 M", "256x256", "ziqipang/RandAR/randar_0.7b_llamagen"):
        assert part in line


def test_imagenet_class_names(cache: Path) -> None:
    names = registry.imagenet_classes()
    assert len(names) == 1000
    assert names[0].startswith("tench") and names[207].startswith("golden retriever")
    assert names[980].startswith("volcano") and names[999].startswith("toilet tissue")
    fill_cache(cache, "randar-l")
    assert rf.load_model("randar-l").classes == names


# Device, dtype, identity


def test_dtype_is_what_is_asked_for_and_float32_by_default(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    halves = {name: value.half() for name, value in load_file(folder / "model.safetensors").items()}
    save_file(halves, folder / "model.safetensors")
    model, half = rf.load_model(folder), rf.load_model(folder, dtype=torch.bfloat16)
    assert (model.dtype, half.dtype) == (torch.float32, torch.bfloat16)
    assert {parameter.dtype for parameter in half.tokenizer.parameters()} == {torch.bfloat16}
    assert half.transformer.rotary.dtype == torch.float32
    assert rf.load_tokenizer(folder, dtype=torch.float16)[0].quantize.embedding.weight.dtype == torch.float16
    assert model.device == (torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu"))


@pytest.mark.parametrize("dtype", [torch.int8, "int8", "auto", torch.complex64])
def test_a_dtype_that_cannot_be(tmp_path: Path, dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match=r"dtype=.*expected one of float32, bfloat16"):
        rf.load_model(write_folder(tmp_path), dtype=dtype)


@pytest.mark.parametrize("device", ["gpu", "cuda:first", 1.5])
def test_a_device_that_cannot_be(tmp_path: Path, device: str) -> None:
    with pytest.raises(ValueError, match=f"device={device!r} is no device: use 'cpu', 'cuda'"):
        rf.load_model(write_folder(tmp_path), device=device)


def test_cuda_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device(None) == torch.device("cpu")
    with pytest.raises(ValueError, match="device='cuda:1', but PyTorch sees no CUDA device"):
        rf.load_model("randar-l", device="cuda:1")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_models_go_to_the_gpu(tmp_path: Path) -> None:
    model = rf.load_model(write_folder(tmp_path))
    assert model.device.type == "cuda" and model.transformer.rotary.device.type == "cuda"
    moved = model.to("cpu")
    assert model.device.type == "cuda" and moved.device.type == "cpu"
    logits = model.transformer(TOKENS.cuda()).cpu()
    torch.testing.assert_close(logits, moved.transformer(TOKENS), rtol=1e-3, atol=1e-3)


def test_a_loaded_model_passes_through_and_is_copied_only_for_another_dtype(tmp_path: Path) -> None:
    model = rf.load_model(write_folder(tmp_path), device="cpu")
    assert rf.load_model(model) is model
    assert rf.load_model(model, device="cpu", dtype=torch.float32) is model
    half = rf.load_model(model, dtype=torch.bfloat16)
    assert (half.dtype, model.dtype) == (torch.bfloat16, torch.float32)
    assert half.weights_hash == model.weights_hash
    assert_is_small(model)


def test_weights_hash_follows_the_weights_and_how_they_are_used(tmp_path: Path) -> None:
    first = rf.load_model(write_folder(tmp_path / "first"))
    same = rf.load_model(write_folder(tmp_path / "second"), dtype=torch.bfloat16)
    assert first.weights_hash == same.weights_hash and len(first.weights_hash) == 16
    save_file(small_transformer(seed=1).state_dict(), tmp_path / "second/model.safetensors")
    assert rf.load_model(tmp_path / "second").weights_hash != first.weights_hash
    save_file(small_tokenizer(seed=1).state_dict(), tmp_path / "first/tokenizer.safetensors")
    assert rf.load_model(tmp_path / "first").weights_hash != first.weights_hash
    config = json.loads((tmp_path / "first/config.json").read_text())
    for part, sizes in (("transformer", {"rope_base": 100.0}), ("training", {"seed": 5})):
        before = rf.load_model(tmp_path / "first").weights_hash
        config[part] = config.get(part, {}) | sizes
        (tmp_path / "first/config.json").write_text(json.dumps(config))
        assert (rf.load_model(tmp_path / "first").weights_hash == before) == (part == "training")


def test_a_model_prints_in_a_line(tmp_path: Path) -> None:
    model = rf.load_model(write_folder(tmp_path), device="cpu")
    assert repr(model) == f"Model({str(tmp_path)!r}, weights {model.weights_hash}, torch.float32 on cpu)"


def test_an_already_loaded_model_survives_pickling(tmp_path: Path) -> None:
    assert_is_small(pickle.loads(pickle.dumps(rf.load_model(write_folder(tmp_path), device="cpu"))))


def test_without_a_connection_the_answer_comes_at_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("randar_features.hub.files.getproxies", dict)
    monkeypatch.setattr("randar_features.hub.files.socket.create_connection", refuse)
    with pytest.raises(FileNotFoundError, match=r"vq_ds16_c2i\.pt"):
        rf.load_model("randar-xl")


@pytest.mark.parametrize(
    ("name", "named"),
    [("", "empty"), (" ", "empty"), ("https://huggingface.co/a/b", "address"), ("./model.zip", "unpack")],
)
def test_names_that_are_none(name: str, named: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=named):
        rf.load_model(name)


def test_a_git_lfs_pointer_is_named(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n")
    with pytest.raises(ValueError, match=r"model\.safetensors.*git lfs pull"):
        read_state_dict(file)


def test_loading_draws_no_random_numbers():
    before = torch.random.get_rng_state()
    rf.load_model("randar-tiny")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_weights_that_change_after_loading_have_another_hash(tmp_path: Path) -> None:
    model = rf.load_model(write_folder(tmp_path / "model"), device="cpu")
    assert rf.load_model(model) is model
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model.to(dtype=torch.float64)]
    assert {rf.load_model(same).weights_hash for same in copies} == {model.weights_hash}
    model.transformer.output_layer.weight.data[0, 0] += 1
    changed = rf.load_model(model)
    assert changed.transformer is model.transformer and changed.weights_hash != model.weights_hash
    assert rf.load_model(model).weights_hash == rf.load_model(changed).weights_hash == changed.weights_hash
    assert rf.load_model(model, dtype=torch.float64).weights_hash == changed.weights_hash
    model.transformer.output_layer.weight.data[0, 0] -= 1
    packed = copy.deepcopy(model)
    packed.transformer = rf.pack_weights(packed.transformer)
    assert rf.load_model(packed) is packed
    next(model.tokenizer.parameters()).data.mul_(2)
    assert rf.load_model(model).weights_hash not in (model.weights_hash, changed.weights_hash)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(64, 64), (3, 3), ()])
def test_a_sum_of_bits_tells_changed_weights(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    given = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)

    def sum_of(values: torch.Tensor) -> int:
        return _sum_of_bits(nn.ParameterList([values]))

    shifted = torch.cat([given.flatten()[:1], given.flatten()])[1:].view(shape)  # not where 8 bytes may begin
    assert sum_of(given) == sum_of(given.clone()) == sum_of(shifted)
    for changed in (given * 2, given / 2, -given, given + 0.25):
        assert sum_of(changed) != sum_of(given)
