"""Index the features of images for retrieval: `python scripts/build_index.py --images FOLDER --out INDEX`.

Or of feature stores that there are: `python scripts/build_index.py STORE … --output NAME --out INDEX`. How much
memory it will take is computed first; what there is not memory for is refused. Run it again after a kill: it
goes on at its last checkpoint. With more stores, or a store that has grown, the new rows are added. Search it
with scripts/search_index.py.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from benchmarks.encoders import Encoder, extract, load_encoder
from benchmarks.encoders.generators import GeneratorEncoder
from benchmarks.tasks.feature_index import warn_of_classes
from probes.index import KINDS, NORMALIZATIONS, in_words, process_memory
from probes.pooling import POOLINGS
from randar_features import build_index
from randar_features.command_line import run_command
from randar_features.features import model_specs
from randar_features.features.store import FeatureStore

UNITS = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
SIZES = ("components", "M", "efConstruction", "nlist", "code_bytes", "training_rows", "block_rows", "seed")


def main() -> None:
    args = parser().parse_args()
    if args.stores and args.images is not None:
        raise ValueError(f"give feature stores or --images, not both: got {args.stores} and {args.images!r}")
    stores = [FeatureStore(store) for store in args.stores] or [extracted(args)]
    start = time.perf_counter()
    index = build_index(
        stores,
        args.out,
        args.output,
        args.kind,
        pooling=args.pooling,
        normalization=args.normalization,
        memory_limit=args.memory_limit,
        threads=args.threads,
        checkpoint_rows=args.checkpoint_rows,
        **{name: value for name in SIZES if (value := getattr(args, name)) is not None},
    )
    taken = time.perf_counter() - start
    about = [f"{name} {value}" for name, value in index.features.items() if name not in ("label_names", "source")]
    print(f"{index}\n  features: {', '.join(about)}")
    warn_of_classes(index.features)
    left_out = len(index.vectors.left_out)
    print(f"  {taken:.1f} s, {in_words(process_memory(peak=True))} at its peak, {left_out} images left out")
    sizes = index.vectors.bytes_per_vector
    print(f"  bytes a vector: {sizes['memory']:.0f} in memory, {sizes['disk']:.0f} on disk")


def extracted(args: argparse.Namespace) -> FeatureStore:
    """The features of the images, from OUT/features if they are there."""
    if args.images is None:
        raise SystemExit("give feature stores, or --images to extract features of")
    encoder = load_encoder(args.encoder, orders=args.orders, device=args.device)
    outputs = [args.output or recommended_output(encoder)]
    folder = args.features or args.out / "features"
    options = {"pooling": args.pooling, "batch_size": args.batch_size, "num_workers": args.workers}
    return extract(encoder, args.images, split=args.split, folder=folder, outputs=outputs, **options)


def recommended_output(encoder: Encoder) -> str:
    """Of a model, image tokens at its recommended layer and context; of others the pooled or the last features."""
    if isinstance(encoder, GeneratorEncoder):
        return str(model_specs(encoder.model)[0])
    if "pooled" in encoder.outputs:
        return "pooled"
    layers = [output for output, details in encoder.outputs.items() if details["layer"] is not None]
    return layers[-1] if layers else next(iter(encoder.outputs))


def memory(text: str) -> int:
    """Bytes from "4GB", "512 MB", "2e9"."""
    number = text.strip().lower().removesuffix("b").strip()
    factor = UNITS.get(number[-1:], 1)
    try:
        return int(float(number.rstrip("kmgt")) * factor)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected bytes, such as 4GB or 512MB, got {text!r}") from None


def parser() -> argparse.ArgumentParser:
    described = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = described.add_argument
    add("stores", nargs="*", metavar="STORE", help="folders that scripts/extract_features.py wrote, pooled")
    add("--images", help="instead: images to extract the features of, a folder or Parquet files")
    add("--split", help="of the images")
    add("--encoder", "--model", default="randar-tiny", help="as benchmarks.encoders.load_encoder takes it")
    add("--orders", type=int, help="mean over so many random orders instead of one raster order")
    add("--pooling", default="mean", choices=POOLINGS)
    add("--features", type=Path, help="where the features of the images are kept; default OUT/features")
    add("--batch-size", type=int, default=32)
    add("--workers", type=int, default=0, help="processes that decode images")
    add("--device")
    add("--output", help="which of the outputs, such as reverse/image/2; a model's recommended one")
    add("--out", type=Path, required=True, help="folder of the index")
    add("--kind", default="auto", choices=["auto", *KINDS], help="auto: by the number of images")
    add("--normalization", default="unit", choices=[*NORMALIZATIONS, "auto"], help="auto: by the labels")
    add("--memory-limit", type=memory, help="of this process, such as 4GB; default: what is available")
    add("--threads", type=int, default=1, help="more are faster, but an hnsw index then differs from run to run")
    add("--checkpoint-rows", type=int, help="rows that a kill can cost; default: a tenth")
    add("--components", type=int, help="whitened: principal axes, half of D")
    add("--M", type=int, help="hnsw: neighbours of a vector in the graph, 32")
    add("--efConstruction", type=int, help="hnsw: candidates looked at for each vector added, 64")
    add("--nlist", type=int, help="ivfpq: lists, some 2·√n")
    add("--code-bytes", type=int, help="ivfpq: bytes a vector, some D/4")
    add("--training-rows", type=int, help="rows in the sample that is trained on")
    add("--block-rows", type=int, help="rows added at once, 16384")
    add("--seed", type=int, help="of the sample, the centroids and the graph")
    return described


if __name__ == "__main__":
    run_command(main)
