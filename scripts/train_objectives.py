"""Compare the losses beside next-token prediction: `train_objectives.py --tokens TOKENS --probe IMAGES --out RUNS`.

Trains each variant of the recipe, objectives.yaml, into RUNS/NAME, with the same images, seeds and
first weights, then writes RUNS/results.json: the losses and the probe at the end of each, and what that is above the
first variant. Run it again to continue; `--max-minutes` ends it early, with exit status 75.

  --variants plain alignment_twice      some of them alone
  … total_steps=600 seed=1              as for train_randar.py
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from randar_features.cli.training import RECIPES
from randar_features.command_line import run_command
from randar_features.data.token_store import TokenStore
from randar_features.features import encode_layer
from randar_features.store.files import read_json, write_json
from randar_features.training.command_line import train, training_parser
from randar_features.training.config import build_config, overridden
from randar_features.training.log import EVERY_LINE
from randar_features.training.online_probe import OnlineProbe
from randar_features.training.recipe import TrainingConfig, recorded
from randar_features.training.teacher_maps import TeacherMaps
from randar_features.training.trainer import RandARTrainer

PROTOCOL = (
    "each variant trained on the same images in the same order from the same weights; held-back nats a token; accuracy "
    "(%) of 20 nearest neighbours and of ridge regression on standardised mean-pooled features of one block, null class"
)


def main() -> None:
    parser = training_parser(__doc__, RECIPES / "objectives.yaml")
    parser.add_argument("--tokens", type=Path, required=True, help="with `train`, `validation` and `teacher`")
    parser.add_argument("--probe", required=True, help="labelled images: a folder or Parquet files")
    parser.add_argument("--probe-split", help="of those images; default: all of them")
    parser.add_argument("--probe-images", type=int, default=4000, help="how many; a quarter is held back to test")
    parser.add_argument("--variants", nargs="+", help="names in the recipe; default: all")
    args = parser.parse_args()

    values = overridden(yaml.safe_load(args.config.read_text(encoding="utf-8")), args.overrides)
    variants = values.pop("variants")
    chosen = args.variants or [*variants]
    if unknown := [name for name in chosen if name not in variants]:
        raise ValueError(f"no variant {unknown[0]!r} in {args.config}, which has {', '.join(variants)}")
    store = TokenStore(args.tokens / "train")
    probe = OnlineProbe.of_store(store, encode_layer, args.probe, split=args.probe_split, count=args.probe_images)
    for name in chosen:
        config = build_config(TrainingConfig, merged(values, variants[name]), f"{args.config}: {name}")
        train_variant(config, store, probe, args, args.out / name)
        write_results(args.out, [other for other in chosen if (args.out / other / "result.json").exists()])


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the `changes`, section by section."""
    result = dict(base)
    for name, value in changes.items():
        inside = isinstance(value, Mapping) and isinstance(base.get(name), Mapping)
        result[name] = merged(base[name], value) if inside else value
    return result


def train_variant(
    config: TrainingConfig, store: TokenStore, probe: OnlineProbe, args: argparse.Namespace, folder: Path
) -> None:
    """Train one variant to its end, and write its figures; SystemExit if time is up before."""
    teacher = TeacherMaps(args.tokens / "teacher", store) if config.auxiliary.alignment.weight else None
    validation = TokenStore(args.tokens / "validation")
    trainer = RandARTrainer(config, store, validation, teacher=teacher, probe=probe)
    train(trainer, argparse.Namespace(**{**vars(args), "out": folder}))
    figures: dict[str, float] = {}
    for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines():
        figures |= {key: value for key, value in json.loads(line).items() if key not in EVERY_LINE}
    write_json(folder / "result.json", {"figures": figures, "settings": recorded(config)})


def write_results(folder: Path, names: list[str]) -> None:
    """One table of all variants that are done."""
    results = {name: read_json(folder / name / "result.json") for name in names}
    first = results[names[0]]["figures"]
    table = {
        name: {
            key: {"value": value, "above_first": round(value - first[key], 6)} if key in first else {"value": value}
            for key, value in result["figures"].items()
        }
        for name, result in results.items()
    }
    settings = {name: result["settings"] for name, result in results.items()}
    write_json(folder / "results.json", {"protocol": PROTOCOL, "results": table, "settings": settings})


if __name__ == "__main__":
    run_command(main)
