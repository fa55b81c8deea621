from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import yaml

import randar_features as rf
from randar_features.hub.publish import push_to_hub, write_card
from tests.scripts.test_training_scripts import call
from tests.small_models import write_folder

TRAINING = {"model": {"num_layers": 3}, "data": "a|b", "learning_rate": 0.003}


class Hub:
    """Stands in for `HfApi`: keeps what is uploaded in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.calls = folder, []  # type: ignore[var-annotated]

    def __call__(self, token: str | None = None) -> Hub:
        self.calls.append(("token", token))
        return self

    def create_repo(self, repo_id: str, **options: Any) -> str:
        self.calls.append((repo_id, options))
        return f"https://hub.example/{repo_id}"

    def upload_folder(self, *, folder_path: Path, allow_patterns: list[str], **options: Any) -> None:
        self.calls.append(("upload", options))
        self.folder.mkdir()
        for file in folder_path.iterdir():
            if file.name in allow_patterns:
                shutil.copy(file, self.folder)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    stand_in = Hub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", stand_in)
    return stand_in


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint: a model, and the state of its training."""
    folder = write_folder(tmp_path / "run", training=TRAINING, tokenizer_training=None)
    (folder / "optimizer.bin").write_bytes(b"state")
    return folder


def test_what_is_uploaded_loads_and_is_all_that_a_model_needs(hub: Hub, folder: Path) -> None:
    address = push_to_hub(folder, "someone/mine", private=True, message="First", token="secret")
    assert address == "https://hub.example/someone/mine"
    assert hub.calls == [
        ("token", "secret"),
        ("someone/mine", {"private": True, "exist_ok": True}),
        ("upload", {"repo_id": "someone/mine", "commit_message": "First"}),
    ]
    names = ["README.md", "config.json", "model.safetensors", "tokenizer.safetensors"]
    assert sorted(file.name for file in hub.folder.iterdir()) == names
    assert rf.load_model(hub.folder).weights_hash == rf.load_model(folder).weights_hash


def test_the_card_has_sizes_recipe_and_how_to_load(folder: Path) -> None:
    card = write_card(folder, "someone/mine").read_text()
    _, metadata, text = card.split("---\n", 2)
    assert yaml.safe_load(metadata)["library_name"] == "randar-features"
    model = rf.load_model(folder)
    count = sum(parameter.numel() for parameter in model.transformer.parameters()) / 1e6
    for part in (
        "# mine\n",
        'rf.load_model("someone/mine")',
        f"| parameters | {count:.1f} M |",
        "| tokens an image | 16 (4×4) of 40 codes |",
        "| image size | 16×16 |",
        f"| weights | `{model.weights_hash}` |",
        "## Training\n",
        "| model.num_layers | 3 |",
        "| learning_rate | 0.003 |",
        "| data | a\\|b |",
    ):
        assert part in text
    assert "Training of the tokenizer" not in text


def test_the_code_of_the_card_runs(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    from PIL import Image

    Image.new("RGB", (20, 20)).save(tmp_path / "photos/black.png")
    code = write_card(folder, "someone/mine").read_text().split("```")[1].removeprefix("python\n")
    monkeypatch.chdir(tmp_path)
    exec(code.replace("someone/mine", str(folder)), names := {})  # type: ignore[var-annotated]
    assert names["features"].maps.shape[0] == 1 and names["images"].shape == (2, 3, 16, 16)


def test_a_folder_below_home(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert write_card(f"~/{folder.name}", "me/model") == folder / "README.md"
    push_to_hub(f"~/{folder.name}", "me/model")
    assert (hub.folder / "config.json").exists()
    assert not any((tmp_path / "elsewhere").iterdir())


def test_a_card_that_is_there_stays(hub: Hub, folder: Path) -> None:
    (folder / "README.md").write_text("by hand")
    push_to_hub(folder, "someone/mine")
    assert (hub.folder / "README.md").read_text() == "by hand"


def test_a_card_of_another_repository_or_of_other_weights_is_told(folder: Path) -> None:
    card = write_card(folder, "someone/mine")
    assert write_card(folder, "someone/mine") == card
    with pytest.warns(UserWarning, match=r"README\.md is of another repository"):
        write_card(folder, "someone/other")
    card.write_text(card.read_text().replace(rf.load_model(folder).weights_hash, "0123456789abcdef"))
    with pytest.warns(UserWarning, match="or of other weights"):
        write_card(folder, "someone/mine")


def test_a_transformer_alone_can_be_uploaded(hub: Hub, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "run", tokenizer=None, image_size=None)
    (folder / "tokenizer.safetensors").unlink()
    push_to_hub(folder, "someone/mine")
    card = (hub.folder / "README.md").read_text()
    assert "image size" not in card and "extract_features" not in card


@pytest.mark.parametrize("repository", ["mine", "someone/mine@main", "a/b/c", "someone/", "https://hub/someone/mine"])
def test_what_is_no_repository_is_refused_before_anything_is_written(hub: Hub, folder: Path, repository: str) -> None:
    with pytest.raises(ValueError, match="is no repository of the Hub, expected 'owner/name'"):
        push_to_hub(folder, repository)
    assert hub.calls == [] and not (folder / "README.md").exists()


def test_a_folder_that_does_not_load_is_not_uploaded(hub: Hub, folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["transformer"]["num_layers"] = 2
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"layers\.2"):
        push_to_hub(folder, "someone/mine")
    assert hub.calls == []


def test_the_script(hub: Hub, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("push_to_hub", folder, "someone/mine", "--card-only")
    assert hub.calls == [] and capsys.readouterr().out.strip() == str(folder / "README.md")
    call("push_to_hub", folder, "someone/mine", "--private", "--message", "Second")
    assert hub.calls[1:] == [
        ("someone/mine", {"private": True, "exist_ok": True}),
        ("upload", {"repo_id": "someone/mine", "commit_message": "Second"}),
    ]
    assert capsys.readouterr().out.strip() == "https://hub.example/someone/mine"


def test_a_hub_that_cannot_be_reached_is_one_line(folder: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*given: Any, **options: Any) -> str:
        raise RuntimeError("Name or service not known")  # as httpx has it, no OSError

    monkeypatch.setattr(hub, "create_repo", unreachable)
    with pytest.raises(ConnectionError, match=r"cannot upload .* to owner/name: Name or service not known"):
        push_to_hub(folder, "owner/name")
