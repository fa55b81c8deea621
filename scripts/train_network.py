"""A network whose maps a tokenizer uses: `python scripts/train_network.py --data IMAGES --out RUN`.

It uses no weights of others: it learns the classes of the images. Codes are fitted to its maps next: `python
scripts/network_tokenizer.py --network RUN/model --data IMAGES --out FOLDER`.
"""

from dataclasses import dataclass

from randar_features.cli.training import RunOptions, tell_left_out, train
from randar_features.data.decode.ranges import Reading
from randar_features.data.pixels import cache_pixels
from randar_features.options.command import UNFINISHED, run
from randar_features.options.parse import part
from randar_features.training.tokenizer.network_trainer import NetworkTrainer, NetworkTrainingConfig


@dataclass(frozen=True, kw_only=True)
class NetworkOptions(RunOptions, NetworkTrainingConfig, Reading):
    """Train the first stages of a timm network by the classes of images; run it again to continue.

    Attributes:
        data: a folder of images or Parquet files, with the splits in it.
        splits: names of the splits to train and to evaluate on.
    """

    data: str
    splits: tuple[str, str] = ("train", "validation")


def train_network(options: NetworkOptions) -> int:
    """Train to the end, or until the time is up."""
    deadline, config = options.deadline(), part(options, NetworkTrainingConfig)
    stores = [
        cache_pixels(
            options.data, options.out / "pixels" / split, deadline=deadline,
            image_size=options.image_size, split=split, reading=options.reading,
        )
        for split in options.splits
    ]  # fmt: skip
    if stores[0] is None or stores[1] is None:
        return UNFINISHED
    tell_left_out(stores[0], stores[1])
    return train(NetworkTrainer(config, stores[0], stores[1]), options, deadline)


if __name__ == "__main__":
    raise SystemExit(run(train_network, NetworkOptions))
