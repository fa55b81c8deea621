"""Who may import whom, read from the source; through package faces too, so that no knot hides in an `__init__.py`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CODE = ("randar_features", "probes", "benchmarks", "scripts")

# What each room may import of the project, besides itself. A room of the map covers all that lies below it, unless a
# room above it in the map covers it already.
MODEL = ("sequence", "layers", "models", "tokenizers", "precision")
COMMON = ("store", "data", "timing", "options.types")
HUB = (*MODEL, *COMMON, "hub")
ROOMS: dict[str, tuple[str, ...]] = {
    "randar_features.sequence": (),
    "randar_features.timing": (),
    "randar_features.precision": (),
    "randar_features.options.types": (),
    "randar_features.options": ("store", "data.decode"),
    "randar_features.store": (),
    "randar_features.data.decode": ("store",),
    "randar_features.data.containers": ("data.decode", "store"),
    "randar_features.data": ("store",),
    "randar_features.layers": ("sequence",),
    "randar_features.models": ("sequence", "layers"),
    "randar_features.tokenizers": ("sequence", "layers", "store", "precision"),
    "randar_features.hub": (*MODEL, *COMMON),
    "randar_features.features": HUB,
    "randar_features.generation": HUB,
    "randar_features.training": (*HUB, "baselines"),
}
FREE = ("randar_features.retrieval", "randar_features.cli")  # may import all of the package, and probes


def allowed(module: str, target: str) -> bool:
    """Whether `module` may import `target`, both dotted names of the project."""
    if within(target, "randar_features.cli"):
        return any(within(module, name) for name in ("randar_features.cli", "randar_features.__main__", "scripts"))
    room = next((room for room in ROOMS if within(module, room)), None)
    if room is not None:
        return within(target, room) or any(within(target, f"randar_features.{name}") for name in ROOMS[room])
    if any(within(module, free) for free in FREE):
        may = (*CODE[:2], "benchmarks") if within(module, "randar_features.cli") else CODE[:2]
        return any(within(target, name) for name in may)
    package = module.partition(".")[0]
    may = {
        "randar_features": ("randar_features",),
        "probes": ("probes",),
        "benchmarks": ("benchmarks", "probes", "randar_features"),
        "scripts": ("benchmarks", "probes", "randar_features"),
    }[package]
    return any(within(target, name) for name in may)


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path, root: Path) -> Iterator[tuple[str, list[str]]]:
    """Each module that a file imports, wherever in it, with the names taken from it."""
    package = module_name(path, root).split(".")
    package = package if path.name == "__init__.py" else package[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            yield ".".join([*above, *([node.module] if node.module else [])]), [alias.name for alias in node.names]


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def sources(root: Path) -> list[Path]:
    """Every file that the rules are about."""
    return sorted(path for package in CODE for path in (root / package).rglob("*.py"))


def targets(base: str, names: list[str], root: Path) -> list[str]:
    """The modules meant by `from base import names`: submodules by their own name, else what defines the name."""
    found = []
    for name in names or [""]:
        below = root.joinpath(*base.split("."), name) if name else root
        is_module = bool(name) and (below.with_suffix(".py").exists() or (below / "__init__.py").exists())
        found.append(f"{base}.{name}" if is_module else owner(base, name, root))
    return found


def owner(base: str, name: str, root: Path, depth: int = 4) -> str:
    """The module that defines what the face `base` gives as `name`."""
    face = root.joinpath(*base.split(".")) / "__init__.py"
    if name and depth and face.exists():
        for source, names in imported(face, root):
            if name in names:
                return owner(source, name, root, depth - 1)
    return base


def violations(root: Path) -> list[str]:
    found = set()
    for path in sources(root):
        module = module_name(path, root)
        for base, names in imported(path, root):
            if base.partition(".")[0] not in (*CODE, "tests"):
                continue
            bad = [target for target in targets(base, names, root) if not allowed(module, target)]
            found |= {f"{module} imports {target}" for target in bad}
    return sorted(found)


def test_nothing_is_imported_against_the_rules():
    assert len(sources(ROOT)) > 50
    assert violations(ROOT) == []


@pytest.mark.parametrize(
    ("file", "source", "expected"),
    [
        ("randar_features/layers/a.py", "from randar_features.models import RandAR", "randar_features.models"),
        ("randar_features/layers/a.py", "from ..models import RandAR", "randar_features.models"),
        (
            "randar_features/training/a.py",
            "def f():\n    import randar_features.generation.decode",
            "generation.decode",
        ),
        ("randar_features/models/a.py", "from randar_features.features import encode", "randar_features.features"),
        ("randar_features/hub/a.py", "from randar_features.generation import recipe", "randar_features.generation"),
        ("randar_features/hub/a.py", "from probes import pck", "probes"),
        ("randar_features/store/a.py", "from randar_features.data import images", "randar_features.data"),
        ("probes/a.py", "from randar_features import sequence", "randar_features"),
        ("benchmarks/a.py", "from tests.small_models import small_config", "tests.small_models"),
        ("benchmarks/a.py", "import scripts.train_randar", "scripts.train_randar"),
        ("benchmarks/a.py", "from randar_features.cli import generate", "randar_features.cli"),
        ("randar_features/options/a.py", "from randar_features.features import encode", "randar_features.features"),
    ],
)
def test_a_violation_is_found(tmp_path: Path, file: str, source: str, expected: str):
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(source)
    found = violations(tmp_path)
    assert found and expected in " ".join(found)


def test_a_face_hides_nothing(tmp_path: Path):
    files = {
        "randar_features/__init__.py": "from .generation import generate",
        "randar_features/generation/__init__.py": "from .loop import generate",
        "randar_features/generation/loop.py": "def generate(): ...",
        "randar_features/hub/__init__.py": "",
        "randar_features/hub/load.py": "from randar_features import generate",
    }
    for name, source in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(source)
    assert violations(tmp_path) == ["randar_features.hub.load imports randar_features.generation.loop"]


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("randar_features/models/a.py", "from randar_features.layers import Attention\nfrom ..layers import rope"),
        ("randar_features/generation/a.py", "from randar_features.sequence import shown\nfrom .decode import decode"),
        ("randar_features/retrieval/a.py", "from probes.knn import nearest\nfrom randar_features.hub import load"),
        ("randar_features/cli/bench.py", "def f():\n    from benchmarks.run import run"),
        ("benchmarks/a.py", "import probes\nfrom randar_features import load_model\nimport probes_of_others"),
        ("probes/a.py", "from .inputs import Array\nimport randar_features_of_others"),
    ],
)
def test_what_is_allowed_is_left_alone(tmp_path: Path, file: str, source: str):
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(source)
    assert violations(tmp_path) == []
