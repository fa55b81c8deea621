"""`randar train transformer`: RandAR or a sister on image tokens."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from randar_features.cli.training import RunOptions, run_stage, tell_left_out, train
from randar_features.data import open_images
from randar_features.data.decode.ranges import Reading
from randar_features.data.token_store import TokenStore
from randar_features.features import encode_layer
from randar_features.generation import generate
from randar_features.hub import load_tokenizer
from randar_features.models import ImageTransformer
from randar_features.options.parse import part
from randar_features.options.types import Count
from randar_features.training.auxiliary.teacher_maps import TeacherMaps
from randar_features.training.generator.online_probe import OnlineProbe
from randar_features.training.generator.recipe import TrainingConfig
from randar_features.training.generator.trainer import RandARTrainer

SAMPLES = 16
GUIDANCE = (1.0, 4.0)


@dataclass(frozen=True, kw_only=True)
class TransformerOptions(RunOptions, TrainingConfig, Reading):
    """Train RandAR, or LlamaGen, PAR or ARPG, on the tokens that `randar tokenize` wrote.

    Run it again to continue. Settings of the recipe may also be given as key=value.

      accelerate launch --num_processes 8 --no_python randar train transformer --config randar_l.yaml …    several GPUs
      torchrun --nnodes 4 --nproc-per-node 8 --rdzv-endpoint HOST:29500 --no-python randar train transformer …    nodes
      … hardware.shard_weights=true                                     a model that does not fit one GPU
      … model.type=llamagen                                             another architecture
      … --probe /data/cifar10                                           the features probed at each evaluation
      … auxiliary.alignment.weight=0.5                                  aligned to what teacher_maps.py wrote

    Attributes:
        tokens: folder with `train` and `validation`, as `randar tokenize` writes it.
        teacher: maps for auxiliary.alignment; none: TOKENS/teacher.
        probe: labelled images; each evaluation logs the accuracy of kNN and ridge regression on the features.
        probe_split: split of the images of --probe; none: all of them.
        probe_images: number of images of --probe; a quarter is the test set.
    """

    tokens: Path
    teacher: Path | None = None
    probe: str | None = None
    probe_split: str | None = None
    probe_images: Count = 4000


def train_transformer(options: TransformerOptions) -> int:
    """Train to the end, or until the time is up."""
    deadline = options.deadline()
    config = part(options, TrainingConfig)
    tokens, validation = TokenStore(options.tokens / "train"), TokenStore(options.tokens / "validation")
    tell_left_out(tokens, validation)
    preview = previews(tokens) if config.loop.preview_every else None
    teacher = None
    if config.auxiliary.alignment.weight:
        teacher = TeacherMaps(options.teacher or options.tokens / "teacher", tokens)
    probe = None
    if options.probe:
        images = open_images(options.probe, split=options.probe_split).read_with(options.reading)
        probe = OnlineProbe.of_store(tokens, encode_layer, images, count=options.probe_images)
    return train(RandARTrainer(config, tokens, validation, preview, teacher, probe), options, deadline)


def previews(store: TokenStore) -> Callable[[ImageTransformer], Tensor] | None:
    """Images (16, 3, S, S) in [0, 1] by a model in training, of classes that are spread over all and of the null class.

    The seeds are always the same, so that differences between two previews are the training's; the global random state
    is left alone. None without a tokenizer beside the tokens.
    """
    if store.tokenizer is None:
        return None
    tokenizer, _ = load_tokenizer(store.tokenizer)
    classes = [*(index * store.num_classes // (SAMPLES - 1) for index in range(SAMPLES - 1)), store.num_classes]
    seeds = torch.arange(SAMPLES, device="cpu")

    @torch.no_grad()
    def preview(transformer: ImageTransformer) -> Tensor:
        tokens = generate(transformer, classes, guidance=GUIDANCE, generator=seeds)
        return tokenizer.to(transformer.device).decode(tokens).float().cpu()

    return preview


main = partial(run_stage, train_transformer, TransformerOptions, stage="transformer", recipe="tiny.yaml")
