"""Trainers with auxiliary losses on tiny data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from randar_features.data.token_store import TokenStore
from randar_features.training.auxiliary.config import (
    AlignmentConfig,
    AuxiliaryConfig,
    ClassHeadConfig,
    SelfDistillationConfig,
)
from randar_features.training.auxiliary.teacher_maps import TeacherMaps, write_teacher_maps
from randar_features.training.generator.trainer import RandARTrainer
from tests.training.small import NUM_CLASSES, random_tokens, small_config, write_store

MODEL = {"num_layers": 3, "num_heads": 2, "dim": 16, "ffn_multiple_of": 16, "residual_dropout": 0.2}
LOSSES: dict[str, dict[str, Any]] = {
    "alignment_loss": {"alignment": AlignmentConfig(weight=0.5)},
    "self_distillation_loss": {"self_distillation": SelfDistillationConfig(weight=0.5)},
    "class_loss": {"class_head": ClassHeadConfig(weight=0.5)},
}


def checkered(pixels: Tensor) -> Tensor:
    """A teacher whose maps (b, 2, 2, 3) are the colours of the quadrants."""
    return torch.nn.functional.adaptive_avg_pool2d(pixels, 2).permute(0, 2, 3, 1)


def small_images(count: int = 20) -> list[Any]:
    """Labelled random images, as many as tokens."""
    pixels = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return [(image, index % NUM_CLASSES) for index, image in enumerate(pixels)]


def small_teacher(folder: Path, store: TokenStore) -> TeacherMaps:
    write_teacher_maps(
        checkered, {"network": "colours"}, small_images(len(store)), store, folder, image_size=8, channels=2
    )
    return TeacherMaps(folder, store)


def auxiliary_trainer(folder: Path, auxiliary: AuxiliaryConfig, **options: Any) -> RandARTrainer:
    """As `small_trainer`, with a teacher's maps beside the tokens."""
    store = write_store(folder / "train", random_tokens())
    teacher = small_teacher(folder / "teacher", store)
    config = small_config(**{"model": MODEL, "class_dropout": 0.5, "auxiliary": auxiliary} | options)
    return RandARTrainer(config, store, store, teacher=teacher)
