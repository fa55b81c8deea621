"""What the bundled model's features are worth, in minutes: `python -m benchmarks.demo --out runs/demo`.

Everything comes with the package: the model, photo-digits, and scikit-learn's two photographs. Writes report.html
(one file with everything in it), results.json, and the pictures.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import demo_sections
from benchmarks.datasets import digit_pairs, digits, photographs
from benchmarks.encoders import load_encoder
from benchmarks.machine import describe
from benchmarks.report import page
from benchmarks.tasks import samples
from randar_features import Model, load_model
from randar_features.command_line import run_command
from randar_features.store.files import write_json

CONTEXTS = ("single", "repeat", "reverse")
STEPS = (4, 16, 64)
NEIGHBOURS = 5


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that the numbers depend on besides the weights.

    Attributes:
        placements, held_out: photo-digits composed of each scan to train on, and to validate and to test on.
        scans: only so many scans of each split; None: all.
        validation_pairs, test_pairs, points: pairs of placements to match, and points of each.
        photograph_scale: shorter side of a photograph, in sides of the model's images.
        classes, samples: how many classes to draw, and how often each.
        seed: of the digits' placements, the pairs' points, the intervals and the samples.
    """

    placements: int = 2
    held_out: int = 1
    scans: int | None = None
    validation_pairs: int = 60
    test_pairs: int = 120
    points: int = 8
    photograph_scale: int = 4
    classes: int = 8
    samples: int = 8
    seed: int = 0


@dataclass(frozen=True)
class Demo:
    """One run: its model and settings, and what has come out so far."""

    model: Model
    settings: Settings
    results: dict[str, Any] = field(default_factory=dict)
    sections: list[page.Section] = field(default_factory=list)
    pictures: dict[str, bytes] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    command: str = "python -m benchmarks.demo"

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Say what is going on, and how long it took."""
        print(f"{name} …", flush=True)
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 1)
        print(f"{name}: {self.seconds[name]:.1f} s", flush=True)

    def figure(self, name: str, png: bytes, caption: str) -> page.Html:
        """Keep the picture, to be written beside the report, and give the HTML with it inside."""
        self.pictures[name] = png
        return page.figure(png, caption=caption, command=self.command)


def run(demo: Demo) -> None:
    """All steps, into `demo`."""
    settings = demo.settings
    with demo.step("compose photo-digits"):
        data = digits.load_digits(
            demo.model.image_size,
            placements=settings.placements,
            held_out=settings.held_out,
            scans=settings.scans,
            seed=settings.seed,
        )
    with demo.step("classify digits"):
        classified = classify(demo, data)
    with demo.step("find nearest neighbours"):
        find_neighbours(demo, data, classified)
    with demo.step("match points"):
        match(demo)
    with demo.step("map photographs"):
        map_photographs(demo)
    with demo.step("generate"):
        draw(demo)


def classify(demo: Demo, data: digits.Digits) -> list[digits.Classified]:
    """A linear probe for every representation."""
    found = digits.representations(data, demo.model, CONTEXTS)
    seed = demo.settings.seed
    results = [digits.classify(name, candidates, data, seed) for name, candidates in found.items()]
    numbers = [digits.summarize(result, data, results[-1], seed) for result in results]
    demo.results["classification"] = numbers
    counts = {split: len(data.labels(split)) for split in data.rows}
    demo.sections.append(demo_sections.classification(numbers, counts, demo.figure))
    return results


def find_neighbours(demo: Demo, data: digits.Digits, classified: list[digits.Classified]) -> None:
    """The nearest training digits of every test digit, under every representation."""
    found = {result.name: digits.nearest(result.best, data, NEIGHBOURS) for result in classified}
    numbers = [{"representation": "chance", **digits.chance_recalls(data, NEIGHBOURS)}]
    numbers += [{"representation": name, **digits.recalls(ids, data)} for name, ids in found.items()]
    demo.results["retrieval"] = numbers
    demo.sections.append(demo_sections.retrieval(numbers, data, found[CONTEXTS[-1]], demo.figure))


def match(demo: Demo) -> None:
    """Points between two placements of a digit, under every representation."""
    settings, size = demo.settings, demo.model.image_size
    options = {"points": settings.points, "seed": settings.seed}
    validation = digit_pairs.load_pairs("validation", size, count=settings.validation_pairs, **options)
    test = digit_pairs.load_pairs("test", size, count=settings.test_pairs, **options)
    found = [digit_pairs.same_place(test)]
    for name in ("pixels", "codes", *CONTEXTS):
        found.append(digit_pairs.match_with(name, validation, test, demo.model))
    numbers = [each.summary(test, settings.seed) for each in found]
    demo.results["matching"] = numbers
    demo.sections.append(demo_sections.matching(numbers, found[1:], test, demo.figure))


def map_photographs(demo: Demo) -> None:
    """Features of whole photographs as colours."""
    model, layer = demo.model, demo.model.recommended_layers[0]
    side = demo.settings.photograph_scale * model.image_size
    pictures = [photographs.load_photograph(name, side, model.image_size // 2) for name in photographs.NAMES]
    encoder = load_encoder(model, contexts=("single", "reverse"), reads=("image",))
    single, reverse = (
        photographs.feature_colours(pictures, encoder, f"{context}/image/{layer}") for context in ("single", "reverse")
    )
    maps = {"single": photographs.align_colours(single, reverse), "reverse": reverse}
    demo.sections.append(demo_sections.photograph_maps(pictures, maps, layer, demo.figure))


def draw(demo: Demo) -> None:
    """Samples of classes, with few and many steps, and edits of the photographs."""
    model, settings = demo.model, demo.settings
    config, seed = model.transformer.config, settings.seed
    classes = samples.spread_classes(config.num_classes, settings.classes)
    grid = samples.sample_classes(model, classes, each=settings.samples, steps=None, seed=seed)
    by_steps = {
        steps: [row[0] for row in samples.sample_classes(model, classes, each=1, steps=steps, seed=seed)]
        for steps in STEPS
        if steps <= config.num_tokens
    }
    crops = photographs.square_crops(model.image_size)
    filled = samples.inpaint_rows(model, crops, draws=3, seed=seed)
    extended = samples.outpaint_rows(model, crops, draws=2, seed=seed)
    names = samples.class_names(model, classes)
    demo.sections.append(demo_sections.generation(names, grid, by_steps, filled, extended, demo.figure))


def write(demo: Demo, out: Path) -> Path:
    """results.json, the pictures and report.html, whose path it gives."""
    model, machine = demo.model, describe(demo.model.device)
    about = {"model": model.name, "weights": model.weights_hash, "command": demo.command, "machine": machine}
    record = {**about, "settings": asdict(demo.settings), **demo.results, "seconds": demo.seconds}
    write_json(out / "results.json", record)
    for name, png in demo.pictures.items():
        (out / f"{name}.png").write_bytes(png)
    subtitle = f"{model.name}, weights {model.weights_hash}, commit {machine['commit']}"
    made = demo_sections.made(record)
    path = out / "report.html"
    path.write_text(page.page("What the features know", subtitle, [*demo.sections, made]), encoding="utf-8")
    return path


def main() -> None:
    """Run, write, and say where."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder for the report")
    parser.add_argument("--model", default="randar-tiny", help="a name or a folder, as for load_model")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    start = time.perf_counter()
    args.out.mkdir(parents=True, exist_ok=True)
    command = shlex.join(["python", "-m", "benchmarks.demo", *sys.argv[1:]])
    demo = Demo(load_model(args.model), Settings(seed=args.seed), command=command)
    run(demo)
    path = write(demo, args.out)
    print(demo_sections.printed(demo.results["classification"]))
    print(f"\n{path.resolve()}\n{time.perf_counter() - start:.0f} s in all")


if __name__ == "__main__":
    run_command(main)
