"""`randar animate`: an animation of an image as its tokens appear, in several orders side by side."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from randar_features.generation.animation import check_ending, order_frames, save_animation
from randar_features.generation.classes import find_class
from randar_features.generation.complete import known_orders
from randar_features.generation.load import load_for_decoding
from randar_features.options.command import run
from randar_features.options.parse import option
from randar_features.options.shared import ModelOptions, Order
from randar_features.options.types import Seed


@dataclass(frozen=True, kw_only=True)
class AnimateOptions(ModelOptions):
    """Animate decoding orders side by side.

    Attributes:
        out: file to write; its ending gives the format: .gif, .png (animated) or .webp.
        class_name: name or index of the class.
        seed: seed of the image.
        orders: orders to show, one panel each; none: all that the model knows.
        steps: number of decoding steps; -1: one token in each step; none: as recommended for the model.
        overwrite: replace an existing file.
    """

    out: Path
    class_name: str = option("--class", default="0")
    seed: Seed = 0
    orders: tuple[Order, ...] | None = None
    steps: int | None = None
    overwrite: bool = False


def animate(options: AnimateOptions) -> None:
    """Write the animation."""
    check_ending(options.out)
    if options.out.exists() and not options.overwrite:
        raise FileExistsError(f"{options.out} is there: give another name, or --overwrite")
    model, _ = load_for_decoding(options.model, options.device, "float32")
    index = find_class(options.class_name, model.classes, model.transformer.config.num_classes)
    orders = options.orders or known_orders(model.transformer)
    save_animation(options.out, order_frames(model, index, seed=options.seed, orders=orders, steps=options.steps))
    print(f"{options.out}: {', '.join(order or 'its only order' for order in orders)}")


main = partial(run, animate, AnimateOptions, program="randar animate")
