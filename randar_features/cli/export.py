"""`randar export`: a table of features in another format, or the parts of a training as one model folder."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from randar_features import open_table
from randar_features.data.token_store import TokenStore
from randar_features.features import FeatureTable
from randar_features.hub import load_model
from randar_features.hub.registry import read_classes
from randar_features.options.command import run
from randar_features.options.parse import positional
from randar_features.options.shared import given
from randar_features.options.types import Count, Natural
from randar_features.training.bundle import assemble_model

FORMATS = {".parquet": FeatureTable.to_parquet, ".zarr": FeatureTable.to_zarr}
"""What writes a table, by the ending of the name."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Write a table of features in another format, or a tokenizer and a transformer as one folder for load_model.

      randar export features/ --out features.parquet                                      or features.zarr
      randar export --transformer runs/a/model --tokens tokens/ --out model/

    It refuses parts of different trainings.

    Attributes:
        table: folder of a table, as `randar extract` writes it.
        out: file to write, .parquet or .zarr; for a model, the folder.
        transformer: folder `model` in the run of the transformer.
        tokens: the tokens that the transformer was trained on, a folder with `train` in it.
        tokenizer: folder `model` in the run of the tokenizer; none: the tokenizer in the folder of the tokens.
        classes: JSON file of class names, a list or {name: number}; none: those of the tokens.
        layers: blocks recommended for features, from 0; none: the middle block.
        steps: recommended decoding steps; none: as published with such models.
    """

    table: Path | None = positional(default=None)
    out: Path
    transformer: Path | None = None
    tokens: Path | None = None
    tokenizer: Path | None = None
    classes: Path | None = None
    layers: tuple[Natural, ...] | None = None
    steps: Count | None = None

    def __post_init__(self) -> None:
        of_model = given(self, ("transformer", "tokens", "tokenizer", "classes", "layers", "steps"))
        if self.table is None and not {"transformer", "tokens"} <= set(of_model):
            raise ValueError("give the folder of a table, or --transformer and --tokens of a model")
        if self.table is not None and of_model:
            raise ValueError(f"--{of_model[0]} is for a model, and {self.table} is to be a table: give one of them")
        if self.table is not None and self.out.suffix not in FORMATS:
            raise ValueError(f"--out: a table is written as {' or '.join(FORMATS)}, got {self.out}")


def export(options: ExportOptions) -> None:
    """Write the table; or the folder of a model, load it, and print the model."""
    if options.table is not None:
        table = open_table(options.table)
        FORMATS[options.out.suffix](table, options.out)
        print(f"{options.out}: {table}")
    elif options.transformer is not None and options.tokens is not None:
        export_model(options, options.transformer, options.tokens)


def export_model(options: ExportOptions, transformer: Path, tokens: Path) -> None:
    """Write the folder of a model."""
    store = TokenStore(tokens / "train")
    tokenizer = options.tokenizer or store.tokenizer
    if tokenizer is None:
        raise ValueError(f"{tokens} holds no tokenizer: give --tokenizer")
    assemble_model(
        tokenizer=tokenizer,
        transformer=transformer,
        manifest=store.manifest,
        out=options.out,
        class_names=read_classes(options.classes, store.num_classes) if options.classes else None,
        layers=options.layers,
        steps=options.steps,
    )
    print(load_model(options.out, device="cpu"))


main = partial(run, export, ExportOptions, program="randar export")
