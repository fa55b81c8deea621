"""`randar train FOLDER`: a model of your own images in minutes; `randar train STAGE`: a stage of the full recipe.

The tokenizer of an existing model stays as it is. Its transformer is fine-tuned on the classes of the folder, or
trained on them from fresh weights.
"""

import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from randar_features.cli.tokenize import keep_tokenizer
from randar_features.cli.train_transformer import previews
from randar_features.cli.training import RunOptions, tell_left_out, train
from randar_features.data import open_images
from randar_features.data.containers.layout import find_splits, split_role
from randar_features.data.decode.ranges import Reading
from randar_features.data.images import ImageSource
from randar_features.data.pixels import PATIENCE
from randar_features.data.token_store import TokenStore
from randar_features.hub import Model, load_model
from randar_features.models import ARCHITECTURES
from randar_features.options.command import run
from randar_features.options.parse import option, positional
from randar_features.options.types import Count, Positive, Seed
from randar_features.store.files import write_json, written_whole
from randar_features.training.generator.recipe import TrainingConfig
from randar_features.training.generator.trainer import RandARTrainer, check_same_classes
from randar_features.training.loop import LoopConfig
from randar_features.training.tokenizing import tokenize

CLASS_TABLE = "cls_embedding.embedding_table.weight"


@dataclass(frozen=True, kw_only=True)
class TrainOptions(RunOptions, Reading):
    """Train a model on your own images in minutes: the tokenizer of --from stays, its transformer learns your classes.

    DATA is a folder with a subfolder for each class, or with train/CLASS and validation/CLASS. Run it again to
    continue. load_model reads every checkpoint, OUT/checkpoints/…, and at the end OUT/model.

      randar train FOLDER --from randar-tiny --steps 500
      randar train transformer --help      the full recipe, on tokens that `randar tokenize` wrote
      randar train tokenizer --help        a tokenizer of your own

    Attributes:
        data: folder of images, Parquet files or a tar.
        out: folder of the run; an existing run is continued.
        base: name or folder of the model to start from.
        fresh: start from fresh weights of the same sizes instead of fine-tuning.
        steps: training steps.
        batch_size: images in a step.
        learning_rate: highest learning rate, after the warm-up; none: 0.0005, or 0.002 for fresh weights.
        validation: share of the images to hold out if the folder has no validation split.
        checkpoint_every: steps between two checkpoints.
        log_every: steps between two lines of progress.
        seed: seed of all random choices.
    """

    data: str = positional()
    out: Path = Path("runs/train")
    base: str = option("--from", default="randar-tiny")
    fresh: bool = False
    steps: Count = 500
    batch_size: Count = 32
    learning_rate: Positive | None = None
    validation: Annotated[float, "from 0 to below 1"] = 0.1
    checkpoint_every: Count = 100
    log_every: Count = 10
    seed: Seed = 0


def train_folder(options: TrainOptions) -> int:
    """Tokenize, then train to the end or until the time is up."""
    deadline = options.deadline()
    base = load_model(options.base)
    tokens, validation = token_stores(options, base)
    print(
        f"{options.data}: {len(tokens)} images to train on, {len(validation)} to validate, {tokens.num_classes} classes"
    )
    tell_left_out(tokens, validation)
    initial = None if options.fresh else adapted(base, tokens, options.out / "initial")
    config = training_config(options, base, initial)
    return train(RandARTrainer(config, tokens, validation, previews(tokens)), options, deadline)


def token_stores(options: TrainOptions, base: Model) -> tuple[TokenStore, TokenStore]:
    """The tokens of both splits, made where they are not there yet."""
    folder, sources = options.out / "tokens", splits(options)
    keep_tokenizer(options.base, base.tokenizer, base.image_size, folder / "tokenizer", write=True)
    stores = []
    for name, source in zip(("train", "validation"), sources, strict=True):
        store = tokenize(
            base.tokenizer,
            source,
            folder / name,
            image_size=base.image_size,
            patience=PATIENCE,
        )
        assert store is not None  # one process at a time makes all, without a deadline
        stores.append(store)
    return stores[0], stores[1]


def splits(options: TrainOptions) -> tuple[ImageSource, ImageSource]:
    """The images to train on and to validate: the splits of the folder, else a share of all is held out."""
    folder = Path(options.data)
    names = find_splits([path.name for path in folder.iterdir() if path.is_dir()]) if folder.is_dir() else []
    by_role = {split_role(name): name for name in names}
    held_back = by_role.get("validation") or by_role.get("test")
    if "train" in by_role and held_back:
        if options.validation != TrainOptions.validation:
            raise ValueError(
                f"--validation {options.validation:g} holds out a share of data without splits, and {options.data} has "
                f"'{held_back}': leave it out"
            )
        training, validation = (open_images(options.data, split=split) for split in (by_role["train"], held_back))
        check_same_classes(training.label_names, validation.label_names)
        return training.read_with(options.reading), validation.read_with(options.reading)
    source = open_images(options.data).read_with(options.reading)
    if source.streamed or len(source) < 2:
        raise ValueError(f"{options.data}: expected at least two images that can be read in any order")
    order = np.random.default_rng(options.seed).permutation(len(source))
    held = min(max(1, round(options.validation * len(source))), len(source) - 1)
    return source.take(np.sort(order[held:])), source.take(np.sort(order[:held]))


def adapted(base: Model, tokens: TokenStore, folder: Path) -> Path:
    """A folder with the transformer's weights, fitted to the classes of the tokens, and what is recommended for it.

    A class that the model has by name keeps its vector; the others begin at that of the null class.
    """
    state, sizes = dict(base.transformer.state_dict()), base.transformer.config
    # An ARPG has one table: codes, a query, the classes, and one more.
    name, first = (CLASS_TABLE, 0) if CLASS_TABLE in state else ("embeddings.weight", sizes.vocab_size + 1)
    before, table, after = state[name].tensor_split([first, first + sizes.num_classes + 1])
    state[name] = torch.cat([before, class_table(table, base.classes, tokens), after])
    with written_whole(folder / "model.safetensors") as file:
        file.write(save({name: value.cpu().contiguous() for name, value in state.items()}))
    recommended = {"layers": base.recommended_layers, "steps": base.transformer.recommended_steps}
    write_json(folder / "config.json", {"recommended": recommended})
    return folder


def class_table(table: Tensor, names: Sequence[str] | None, tokens: TokenStore) -> Tensor:
    """The vectors (C + 1, D) of the tokens' classes from those of the model (C' + 1, D); last comes the null class."""
    known: Mapping[str, int] = {name: index for index, name in enumerate(names or ())}
    wanted = tokens.manifest["label_names"] or [None] * tokens.num_classes
    rows = [known.get(name, len(table) - 1) for name in wanted]
    return table[torch.tensor([*rows, len(table) - 1], device="cpu")]


def training_config(options: TrainOptions, base: Model, initial: Path | None) -> TrainingConfig:
    """The recipe: sizes of the base model, a short warm-up, no dropout."""
    sizes = asdict(base.transformer.config)
    for name in ("vocab_size", "num_tokens", "num_classes"):
        del sizes[name]
    kind = next(name for name, (build, _) in ARCHITECTURES.items() if isinstance(base.transformer, build))
    rate = options.learning_rate or (5e-4 if initial else 2e-3)
    return TrainingConfig(
        model={"type": kind, **sizes},
        order="raster" if base.transformer.trained_order == "raster" else "random",
        initial=None if initial is None else str(initial),
        total_steps=options.steps,
        batch_size=options.batch_size,
        learning_rate=rate,
        warmup_steps=min(50, options.steps // 10),
        ema_decay=0.99,
        seed=options.seed % 2**32,
        loop=LoopConfig(
            log_every=options.log_every,
            evaluate_every=options.checkpoint_every,
            checkpoint_every=options.checkpoint_every,
            preview_every=options.steps,
        ),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: `randar train FOLDER`, `randar train transformer …` or `randar train tokenizer …`."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] not in (["transformer"], ["tokenizer"]):
        return run(train_folder, TrainOptions, given, program="randar train")
    return importlib.import_module(f"randar_features.cli.train_{given[0]}").main(given[1:])
