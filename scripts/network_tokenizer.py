"""A tokenizer on a frozen network: `python scripts/network_tokenizer.py --data IMAGES --out FOLDER`.

Its decoder is then trained: `randar train tokenizer --config network_decoder.yaml --data IMAGES --out RUN
initial=FOLDER`.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from randar_features import load_tokenizer
from randar_features.data.decode.ranges import Reading
from randar_features.options.command import run
from randar_features.options.shared import fields_of
from randar_features.options.types import Count, Natural, typed
from randar_features.tokenizers import NetworkTokenizer
from randar_features.training.tokenizer.network_codes import fit_network_tokenizer


@dataclass(frozen=True, kw_only=True)
class NetworkTokenizerOptions(Reading):
    """Fit the codes of a tokenizer whose encoder is a frozen network; its decoder is trained afterwards.

    Attributes:
        data: images, a folder or Parquet files.
        out: folder of the tokenizer.
        split: of the images.
        network: the model folder of scripts/train_network.py, or one of the baselines that takes pixels in [−1, 1].
        sizes: arguments of `NetworkTokenizer`, but `network`.
        shares: of the variance: one for each stage of the network that is read, and one for the colours.
        sampled: images whose cells are clustered.
        image_size: pixels a side.
        batch_size: images in one forward pass.
        seed: of the clusters.
        decoder: a tokenizer of the same sizes whose decoder is taken over, its first layer fitted to the new codes.
    """

    data: str
    out: Path
    split: str | None = "train"
    network: str = "efficientnet-lite0"
    sizes: dict[str, Any] = field(default_factory=dict)
    shares: list[float] = field(default_factory=lambda: [1.0, 1.0])
    sampled: Count = 5000
    image_size: Count = 64
    batch_size: Count = 32
    seed: Natural = 0
    decoder: str | None = None


def fit(options: NetworkTokenizerOptions) -> None:
    """Write the tokenizer."""
    others = fields_of(options, but=("network", "data", "out", "sizes", "decoder", "value_range", "max_pixels"))
    others["decoder"] = None if options.decoder is None else load_tokenizer(options.decoder, "cpu")[0]
    others["sizes"] = typed(NetworkTokenizer, options.sizes, "sizes")
    fit_network_tokenizer(options.network, options.data, options.out, reading=options.reading, **others)
    print(f"{options.out}: done; now train its decoder")


if __name__ == "__main__":
    raise SystemExit(run(fit, NetworkTokenizerOptions))
