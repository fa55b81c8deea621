"""First weights of a transformer with other codes, and deeper: `grow_transformer.py --tokenizer CODES --out FOLDER`.

Blocks of a trained model are taken over, repeated ones damped to a tenth, so that they hardly change what passes
through (as in depth growing, Gong et al. 2019). A code's embedding and its row of the output are random rotations of
its vector: similar codes begin with similar vectors. With `--data` the output's row is the mean of the trained rows
of those codes that the trained model's tokenizer finds in the same cells of images, and the embedding joins both.
Train from it: `randar train transformer … initial=FOLDER`.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from randar_features import load_model, load_tokenizer
from randar_features.data import open_images
from randar_features.hub.load import Model
from randar_features.options.command import run
from randar_features.options.types import Count, Natural
from randar_features.store.files import write_json, written_whole
from randar_features.tokenizers import ImageTokenizer
from randar_features.training.tokenizer.network_codes import spread_images

DAMPED = 0.1
OUTPUT_SIZE = 0.04  # standard deviation of the output's weights; the embedding's is that of the trained model


@dataclass(frozen=True, kw_only=True)
class GrowOptions:
    """Write first weights of a deeper transformer with other codes.

    Attributes:
        tokenizer: folder with the codes.
        out: folder to write to.
        model: the trained model.
        blocks: its blocks in their new order; one that comes again is damped.
        seed: of the rotations.
        data: images in whose cells both tokenizers look; None: rotations of the codes' vectors.
        split: of the images.
        images: how many of them, evenly spread.
    """

    tokenizer: Path
    out: Path
    model: str = "randar-tiny"
    blocks: tuple[int, ...] = (0, 1, 1, 2, 2, 3)
    seed: Natural = 0
    data: str | None = None
    split: str | None = "train"
    images: Count = 5000


def grow(options: GrowOptions) -> None:
    """Write model.safetensors and config.json."""
    model, (tokenizer, _) = load_model(options.model, "cpu"), load_tokenizer(options.tokenizer, "cpu")
    trained = model.transformer.state_dict()
    if unknown := [block for block in options.blocks if not 0 <= block < model.transformer.config.num_layers]:
        raise ValueError(f"blocks = {options.blocks}: {options.model} has no block {unknown[0]}")
    state = {name: value for name, value in trained.items() if not name.startswith("layers.")}
    for place, block in enumerate(options.blocks):
        again = block in options.blocks[:place]
        state |= _block(trained, block, place, DAMPED if again else 1.0)
    codes, generator = tokenizer.quantize.weight(), torch.Generator().manual_seed(options.seed)
    if options.data is not None:
        together = cells_in_common(options, tokenizer, model)
        for name in ("tok_embeddings.weight", "output.weight"):
            state[name] = translated(state[name], together)
    embedding = state["tok_embeddings.weight"]
    own = rotated(codes, embedding.shape[1], embedding.std(), generator)
    if options.data is None:
        state["tok_embeddings.weight"] = own
        state["output.weight"] = rotated(codes, embedding.shape[1], torch.tensor(OUTPUT_SIZE, device="cpu"), generator)
    else:  # what the trained blocks know, and what the codes themselves tell: features are read from the sum
        state["tok_embeddings.weight"] = (embedding + own) / 2**0.5
    with written_whole(options.out / "model.safetensors") as file:
        file.write(save({name: value.clone() for name, value in state.items()}))  # repeated blocks share memory
    sizes = replace(model.transformer.config, num_layers=len(options.blocks), vocab_size=len(codes))
    write_json(options.out / "config.json", {"transformer": {"type": "randar", **asdict(sizes)}})
    print(f"{options.out}: {sum(value.numel() for value in state.values()):,} parameters")


def _block(trained: dict[str, Tensor], block: int, place: int, factor: float) -> dict[str, Tensor]:
    """The weights of a block under the names of another place, what it adds multiplied by `factor`."""
    inside = f"layers.{block}."
    own = {name.removeprefix(inside): value for name, value in trained.items() if name.startswith(inside)}
    adds = ("attention.wo.weight", "feed_forward.w2.weight")
    return {f"layers.{place}.{name}": value * factor if name in adds else value for name, value in own.items()}


def rotated(codes: Tensor, width: int, size: Tensor, generator: torch.Generator) -> Tensor:
    """Codes (V, C) less their mean, in a random frame of `width` ≥ C numbers, of standard deviation `size`."""
    frame, _ = torch.linalg.qr(torch.randn(width, codes.shape[1], generator=generator, device="cpu"))
    rows = (codes - codes.mean(0)) @ frame.T
    return rows * (size / rows.std())


def cells_in_common(options: GrowOptions, tokenizer: ImageTokenizer, model: Model) -> Tensor:
    """(codes of `tokenizer`, codes of the model): the number of cells in which both were found."""
    source = open_images(options.data, split=options.split)
    number = len(tokenizer.quantize.weight()), len(model.tokenizer.quantize.weight())
    counts = torch.zeros(number[0] * number[1], dtype=torch.int64, device="cpu")
    for pixels in spread_images(source, options.images, model.image_size, batch_size=50):
        pairs = tokenizer.encode(pixels) * number[1] + model.tokenizer.encode(pixels)
        counts += torch.bincount(pairs.flatten(), minlength=len(counts))
    return counts.view(number)


def translated(rows: Tensor, together: Tensor) -> Tensor:
    """Rows (V, D) of trained codes to those of new ones: means by `together` (V′, V), with the deviation of `rows`.

    A new code that was found nowhere gets the mean of all.
    """
    shares = together.float() + together.sum(0).float() / together.sum() * 1e-3
    found = (shares / shares.sum(1, keepdim=True)) @ rows
    return found.mean(0) + (found - found.mean(0)) * (rows.std() / found.std())


if __name__ == "__main__":
    raise SystemExit(run(grow, GrowOptions))
