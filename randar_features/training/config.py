"""Configurations: a dataclass, filled from a YAML file, overridden by `key=value`."""

from __future__ import annotations

import difflib
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import yaml

Config = TypeVar("Config")


def load_config(kind: type[Config], path: Path, overrides: list[str] | None = None) -> Config:
    """`kind` built from the YAML file at `path` and `overrides` such as `batch_size=64` or `network.channels=32`.

    Unknown keys are errors that name the nearest known one.
    """
    values: dict[str, Any] = yaml.safe_load(path.read_text()) or {}
    for override in overrides or []:
        key, separator, text = override.partition("=")
        if not separator:
            raise ValueError(f"an override must read key=value, got {override!r}")
        *parents, last = key.split(".")
        target = values
        for parent in parents:
            target = target.setdefault(parent, {})
        target[last] = yaml.safe_load(text)
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            nearest = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else f"known: {', '.join(known)}"
            raise ValueError(f"{path}: {kind.__name__} has no option {key!r}; {hint}")
    return kind(**values)
