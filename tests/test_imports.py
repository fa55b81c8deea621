"""Who may import whom, read from the source."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ARCHITECTURE = ("randar_features.models", "randar_features.tokenizers")
USES = ("randar_features.generation", "randar_features.encoding", "randar_features.training")
FORBIDDEN = {
    "randar_features": ("probes", "benchmarks", "scripts", "tests"),
    "probes": ("randar_features", "benchmarks", "scripts", "tests"),
    "benchmarks": ("scripts", "tests"),
    "scripts": ("scripts", "tests"),
    "randar_features.layers": (*ARCHITECTURE, *USES, "randar_features.hub", "randar_features.data"),
    "randar_features.models": (*USES, "randar_features.hub", "randar_features.data"),
    "randar_features.tokenizers": (*USES, "randar_features.hub", "randar_features.data"),
    "randar_features.training": ("randar_features.generation", "randar_features.encoding"),
    "randar_features.generation": ("randar_features.training", "randar_features.encoding"),
    "randar_features.encoding": ("randar_features.training", "randar_features.generation"),
    "randar_features.sequence": ("randar_features",),
    "randar_features.store": tuple(
        f"randar_features.{name}"
        for name in ("data", "encoding", "generation", "hub", "layers", "models", "tokenizers", "training")
    ),
}
SEQUENCE_MAY = {*sys.stdlib_module_names, "torch"}


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path, root: Path) -> Iterator[str]:
    """Dotted names of all that a file imports, wherever in it; `from a import b` counts as a and as a.b."""
    package = module_name(path, root).split(".")
    package = package if path.name == "__init__.py" else package[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def sources(root: Path) -> list[Path]:
    """Every file that the rules are about."""
    return sorted(path for package in FORBIDDEN if "." not in package for path in (root / package).rglob("*.py"))


def violations(root: Path) -> list[str]:
    found = []
    for path in sources(root):
        module = module_name(path, root)
        rules = {target for package, targets in FORBIDDEN.items() if within(module, package) for target in targets}
        for name in sorted(set(imported(path, root))):
            broken = any(within(name, target) for target in rules)
            if module == "randar_features.sequence" and name.partition(".")[0] not in SEQUENCE_MAY:
                broken = True
            if broken:
                found.append(f"{module} imports {name}")
    return found


def test_nothing_is_imported_against_the_rules():
    assert len(sources(ROOT)) > 50
    assert violations(ROOT) == []


@pytest.mark.parametrize(
    ("file", "source", "expected"),
    [
        ("randar_features/layers/a.py", "from randar_features.models import RandAR", "randar_features.models"),
        ("randar_features/layers/a.py", "from ..models import RandAR", "randar_features.models"),
        ("randar_features/layers/__init__.py", "from .. import models", "randar_features.models"),
        (
            "randar_features/training/a.py",
            "def f():\n    import randar_features.generation.decode",
            "generation.decode",
        ),
        ("randar_features/models/a.py", "from randar_features import encoding", "randar_features.encoding"),
        ("randar_features/sequence.py", "import numpy", "numpy"),
        ("randar_features/hub.py", "from probes import pck", "probes"),
        ("probes/a.py", "from randar_features import sequence", "randar_features"),
        ("benchmarks/a.py", "from tests.small_models import small_config", "tests.small_models"),
        ("benchmarks/a.py", "import scripts.train_randar", "scripts.train_randar"),
    ],
)
def test_a_violation_is_found(tmp_path: Path, file: str, source: str, expected: str):
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(source)
    found = violations(tmp_path)
    assert found and expected in " ".join(found)


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("randar_features/models/a.py", "from randar_features.layers import Attention\nfrom ..layers import rope"),
        ("randar_features/generation/a.py", "from randar_features import sequence\nfrom .decode import decode"),
        ("randar_features/sequence.py", "from __future__ import annotations\nimport torch\nfrom torch import Tensor"),
        ("benchmarks/a.py", "import probes\nfrom randar_features import load_model\nimport probes_of_others"),
        ("probes/a.py", "from .inputs import Array\nimport randar_features_of_others"),
    ],
)
def test_what_is_allowed_is_left_alone(tmp_path: Path, file: str, source: str):
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text(source)
    assert violations(tmp_path) == []
