"""Train RandAR or a sister on image tokens: `python scripts/train_randar.py --tokens FOLDER --out RUN`.

The folder holds `train` and `validation`, as scripts/tokenize_images.py writes them. Run it again to
continue; `--max-minutes` ends a stage early, with exit status 75.

  accelerate launch --num_processes 8 scripts/train_randar.py --config scripts/configs/randar_l.yaml …     several GPUs
  torchrun --nproc-per-node 8 --nnodes 4 --rdzv-endpoint HOST:29500 scripts/train_randar.py …     several nodes
  … hardware.shard_weights=true                                                 a model that does not fit one GPU
  … model.type=llamagen                                                         another architecture
  … --probe /data/cifar10                                                       the features probed at each evaluation
  … auxiliary.alignment.weight=0.5 auxiliary.second_showing=0.5                 aligned to what teacher_maps.py wrote
  … auxiliary.self_distillation.weight=0.5                                      taught by its own averaged weights
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn

from randar_features.command_line import run_command
from randar_features.data.token_store import TokenStore
from randar_features.features import encode_layer
from randar_features.generation.preview import sample_preview, spread_classes
from randar_features.hub import load_tokenizer
from randar_features.training.command_line import train, training_parser
from randar_features.training.config import load_config
from randar_features.training.online_probe import OnlineProbe
from randar_features.training.teacher_maps import TeacherMaps
from randar_features.training.trainer import RandARTrainer, TrainingConfig

SAMPLES = 16


def previews(store: TokenStore) -> Callable[[nn.Module], Tensor] | None:
    """Samples of classes that are spread over all, one of them of the null class; None without a tokenizer."""
    if store.tokenizer is None:
        return None
    tokenizer, _ = load_tokenizer(store.tokenizer)
    return sample_preview(tokenizer, [*spread_classes(store.num_classes, SAMPLES - 1), store.num_classes])


def main() -> None:
    parser = training_parser(__doc__, Path(__file__).parent / "configs/tiny.yaml")
    parser.add_argument("--tokens", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, help="maps for auxiliary.alignment; default: TOKENS/teacher")
    parser.add_argument(
        "--probe", help="labelled images: accuracy of kNN and ridge on the features, at each evaluation"
    )
    parser.add_argument("--probe-split", help="of those images; default: all of them")
    parser.add_argument("--probe-images", type=int, default=4000, help="how many; a quarter is held back to test")
    args = parser.parse_args()

    config = load_config(TrainingConfig, args.config, args.overrides)
    tokens, validation = TokenStore(args.tokens / "train"), TokenStore(args.tokens / "validation")
    preview = previews(tokens) if config.loop.preview_every else None
    teacher = None
    if config.auxiliary.alignment.weight:
        teacher = TeacherMaps(args.teacher or args.tokens / "teacher", tokens)
    probe = None
    if args.probe:
        options = {"split": args.probe_split, "count": args.probe_images}
        probe = OnlineProbe.of_store(tokens, encode_layer, args.probe, **options)
    train(RandARTrainer(config, tokens, validation, preview, teacher, probe), args)


if __name__ == "__main__":
    run_command(main)
