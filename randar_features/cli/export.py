"""`randar export`: the parts of a training as one model folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from randar_features.cli.parse import Count, Natural, run
from randar_features.data.token_store import TokenStore
from randar_features.hub import load_model
from randar_features.store.files import read_json
from randar_features.training.bundle import assemble_model


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Put a tokenizer and a transformer into one folder for load_model; parts of different trainings are refused.

    Attributes:
        transformer: folder `model` of a transformer's run.
        tokens: the tokens that it was trained on, a folder with `train` in it.
        out: folder to write.
        tokenizer: folder `model` of a tokenizer's run; none: the tokenizer that lies beside the tokens.
        classes: JSON list of class names; none: those of the tokens.
        layers: blocks recommended for features, from 0; none: the middle block.
        steps: recommended decoding steps; none: as published with such models.
    """

    transformer: Path
    tokens: Path
    out: Path
    tokenizer: Path | None = None
    classes: Path | None = None
    layers: tuple[Natural, ...] | None = None
    steps: Count | None = None


def export(options: ExportOptions) -> None:
    """Write the folder, load it, and print the model."""
    store = TokenStore(options.tokens / "train")
    tokenizer = options.tokenizer or store.tokenizer
    if tokenizer is None:
        raise ValueError(f"{options.tokens} holds no tokenizer: give --tokenizer")
    assemble_model(
        tokenizer=tokenizer,
        transformer=options.transformer,
        manifest=store.manifest,
        out=options.out,
        class_names=read_json(options.classes) if options.classes else None,
        layers=options.layers,
        steps=options.steps,
    )
    print(load_model(options.out, device="cpu"))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    return run(export, ExportOptions, arguments, program="randar export")


if __name__ == "__main__":
    raise SystemExit(main())
