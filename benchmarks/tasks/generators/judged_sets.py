"""Features of sets of images by a network, and the measures between a real and a generated set."""

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache, reduce
from operator import add
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from benchmarks.datasets import open_data
from benchmarks.datasets.image_npz import NpzImages
from benchmarks.encoders import Encoder, extract, load_encoder
from benchmarks.encoders.feature_file import read_features
from benchmarks.encoders.inception import CLASSES, POOL, InceptionEncoder, Variant, is_inception
from benchmarks.encoders.judges import PLAIN_NAMES, VARIANT_TITLES, Judge, same_classes, title_of
from benchmarks.options import ComputeOptions
from benchmarks.result import data_hash, resolved_dtype
from probes.generation import Moments, frechet_distance, inception_score, kernel_distance, manifold_scores
from probes.rows import DiskRows, Rows, SelectedRows, sharded_rows
from randar_features import Model
from randar_features.baselines import is_network
from randar_features.data import ImageSource
from randar_features.data.containers.paths import reading
from randar_features.data.decode.decoding import open_picture
from randar_features.data.decode.ranges import DEFAULT_READING, Reading
from randar_features.options.types import Count, Natural
from randar_features.precision import name_of
from randar_features.store.files import written_whole

Purpose = Literal["generation", "reconstruction"]
ADM_SPLIT = 5000  # samples in one part of ADM's Inception Score
FIDELITY_SPLITS, FIDELITY_SEED = 10, 2020
FEW = 10_000  # samples, below which a Fréchet distance says little by itself


@dataclass(frozen=True, kw_only=True)
class JudgeOptions(ComputeOptions):
    """Which network judges images, and how.

    Attributes:
        network: inception or inception=FILE (extra fid), or an encoder: efficientnet-lite0 (extra baselines, offline),
            timm:NAME, timm:NAME=FILE, MODULE:FACTORY, a model. Only Inception gives an FID; others give FD-NETWORK.
        output: feature of a network other than Inception; none: its pooled vector, or else its last feature.
        variant: variant of FID, whose numbers are not comparable: adm (its resize; IS in file order, in parts of 5000;
            sFID), torch-fidelity (the same resize; IS of 10 parts after its shuffle), clean-fid (its resize; no IS).
        k: neighbours for precision, recall, density and coverage.
        splits: number of parts for the IS, for networks other than Inception.
        resolution: side in pixels to which all images are cut before the network gets them; none: the model's side, or
            that of the first image.
        num_workers: processes that decode images; 0: this one.
        dtype: number format of the network; Inception is defined in float32.
        cache: folder that keeps features and samples.
        seed: seed of the first sample; image i is drawn with seed + i.
    """

    network: str = "efficientnet-lite0"
    output: str | None = None
    variant: Variant = "adm"
    k: Count = 3
    splits: Count = 10
    resolution: Count | None = None
    num_workers: Natural = 0
    cache: str = "runs/generation"

    def judge(self, size: int, through: Model | None = None) -> Judge:
        """The network, for images of a size; `through`: the model whose reconstructions are judged."""
        name, output = self.network, self.output
        if is_inception(name):
            if self.dtype != "float32" or output is not None:
                raise ValueError(f"{name} is defined in float32 and by its own outputs: leave --dtype and --output out")
            inception = InceptionEncoder(name, self.variant, size, self.device)
            return Judge(inception, size, features=POOL, title=VARIANT_TITLES[self.variant], through=through)
        if is_network(name):
            from benchmarks.encoders.timm_models import TimmEncoder

            network: Encoder = TimmEncoder(name, self.device, classifier=True)
            network.dtype = getattr(torch, resolved_dtype(self.dtype, network.device))
        else:
            network = load_encoder(name, device=self.device, dtype=self.dtype)
        last = [known for known in network.outputs if known != CLASSES][-1]
        features = network.choose([output or ("pooled" if "pooled" in network.outputs else last)])[0]
        title = title_of(name) + ("" if output is None else f" {output}")
        return Judge(network, size, features=features, title=title, through=through)


@dataclass(frozen=True, eq=False)
class JudgedSet:
    """What a network makes of a set of images.

    Attributes:
        moments: of the features.
        features, probabilities: (n, D) and (n, C); None where only statistics are known.
        spatial: moments of the features of sFID.
        labels: class of each image (n,), -1 where it has none; None: no image has one.
        class_names: of the labels.
        warnings: of images that could not be read.
    """

    moments: Moments
    features: Rows | None = None
    probabilities: Rows | None = None
    spatial: Moments | None = None
    labels: np.ndarray | None = None
    class_names: Sequence[str] | None = None
    warnings: tuple[str, ...] = ()


def judged(
    judge: Judge,
    images: Any,
    options: JudgeOptions,
    name: str,
    labels: np.ndarray | None = None,
    class_names: Sequence[str] | None = None,
) -> JudgedSet:
    """Features of images, from the cache or computed by all processes; their statistics, merged over processes.

    Args:
        judge: the network.
        images: what `open_images` takes.
        options: batch size and cache.
        name: of the images, in the cache.
        labels, class_names: of the images; None: their own.
    """
    about: dict[str, Any] = {"batch_size": options.batch_size, "num_workers": options.num_workers, "dtype": "float32"}
    store = extract(judge, images, folder=options.cache, name=name, progress=processes().is_main_process, **about)
    readable = np.flatnonzero(store.ok)
    failed = len(store) - len(readable)

    def rows(output: str) -> Rows:
        return SelectedRows(sharded_rows(store.rows(output)), readable)

    features = rows(judge.features)
    own = store.labels if labels is None else labels
    return JudgedSet(
        moments=merged_moments(features),
        features=features,
        probabilities=rows(judge.probabilities) if judge.probabilities else None,
        spatial=merged_moments(rows(judge.spatial)) if judge.spatial else None,
        labels=own[readable] if (own >= 0).any() else None,
        class_names=store.label_names if class_names is None else class_names,
        warnings=(f"{failed} of {len(store)} images of {name} could not be read, and are left out",) * (failed > 0),
    )


@cache
def processes() -> PartialState:
    """This process among those of torchrun or `accelerate launch`; their shares may differ by hours."""
    return PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=7))


def merged_moments(rows: Rows) -> Moments:
    """`Moments.of`, each process reading its share."""
    ranks = processes()
    if ranks.num_processes == 1 or len(rows) < 2 * ranks.num_processes:
        return Moments.of(rows)
    share = np.array_split(np.arange(len(rows)), ranks.num_processes)[ranks.process_index]
    return reduce(add, gather_object([Moments.of(SelectedRows(rows, share))]))


# Where sets come from


def open_set(
    data: str, split: str | None, count: int | None, cache: str, reading: Reading = DEFAULT_READING, *, size: int
) -> ImageSource:
    """Images of a folder, a data set or an .npz in ADM's form: `count` evenly spread ones, None: all.

    size: pixels a side that photo-digits is composed at.
    """
    path = Path(data)
    if path.suffix == ".npz":
        if split is not None:
            raise ValueError(f"{data} holds one set of images and has no split {split!r}: leave it out")
        source = open_data(NpzImages(path, Path(cache) / "unpacked"), None, size)
    else:
        source = open_data(data, split, size, reading)
    if count is None or (source.length or 0) <= count:
        return source
    return source.take(np.linspace(0, len(source) - 1, count).round().astype(np.int64))


def size_of(source: ImageSource, data: str) -> int:
    """The shorter side of the first image; ValueError where that takes decoding a data set."""
    first = next(iter(source.items()))
    if Path(data).suffix == ".npz":
        return NpzImages(Path(data), Path()).images.shape[1]
    if first.image is None:
        raise ValueError(f"the size of the images of {data} is not known before they are read: state --resolution")
    with open_picture(first.image) as image:
        return min(image.size)


def is_statistics(data: str) -> bool:
    """Whether a file holds mu and sigma."""
    return {"mu", "sigma"} <= arrays_in(data)


def arrays_in(data: str) -> set[str]:
    """Names of the arrays in an .npz; none where it is no such file."""
    path = Path(data)
    if path.suffix != ".npz" or not path.is_file():
        return set()
    with reading(path, "arrays"), np.load(path, allow_pickle=False) as file:
        return {*file.files}


def read_statistics(data: str, judge: Judge | None, purpose: Purpose) -> JudgedSet:
    """mu and sigma, and mu_s and sigma_s where sFID has them, of a file of ADM or of `save_statistics`.

    Raises:
        ValueError: they are for the other purpose, or of another network, variant or size.
    """
    path = Path(data)
    with reading(path, "statistics"), np.load(path, allow_pickle=False) as file:
        about = json.loads(str(file["about"])) if "about" in file.files else None
        arrays = {
            name: np.asarray(file[name], np.float64) for name in ("mu", "sigma", "mu_s", "sigma_s") if name in file
        }
        pairs = [(arrays["mu"], arrays["sigma"])] + ([(arrays["mu_s"], arrays["sigma_s"])] if "mu_s" in arrays else [])
        count = None if about is None else about["count"]
        moments = [Moments(count, *pair) for pair in pairs]
    made_for = "generation" if about is None else about["purpose"]  # ADM's are of a training set
    if made_for != purpose:
        raise ValueError(
            f"{path} holds statistics for {made_for}, and this measures {purpose}: samples are compared with a "
            "training set, reconstructions with the very images that were reconstructed; one cannot stand for the other"
        )
    if judge is not None:
        _check_network(path, about, judge)
    return JudgedSet(moments[0], spatial=moments[1] if len(moments) > 1 else None)


def _check_network(path: Path, about: Mapping[str, Any] | None, judge: Judge) -> None:
    if about is None:
        if not isinstance(judge.network, InceptionEncoder) or judge.network.variant != "adm":
            raise ValueError(
                f"{path} holds ADM's statistics of Inception, and images are judged by {judge.name}: state --network "
                "inception --variant adm, or give images as the reference"
            )
        return
    own = identity_of(judge)
    if differing := {name: (about.get(name), value) for name, value in own.items() if about.get(name) != value}:
        texts = [f"{name} {was!r} instead of {now!r}" for name, (was, now) in differing.items()]
        raise ValueError(f"{path} holds statistics of other features: {', '.join(texts)}")


def identity_of(judge: Judge) -> dict[str, Any]:
    """What features depend on."""
    names = {"network": judge.network.name, "weights": judge.network.weights, "features": judge.features}
    return names | {"size": judge.image_size, "dtype": name_of(judge.dtype)}


def save_statistics(path: Path, found: JudgedSet, judge: Judge, purpose: Purpose) -> None:
    """mu, sigma and, for sFID, mu_s and sigma_s, under ADM's names, with what they are of."""
    about = identity_of(judge) | {"purpose": purpose, "count": found.moments.count}
    arrays: dict[str, Any] = {"mu": found.moments.mean, "sigma": found.moments.covariance}
    if found.spatial is not None:
        arrays |= {"mu_s": found.spatial.mean, "sigma_s": found.spatial.covariance}
    with written_whole(path) as file:
        np.savez(file, about=np.array(json.dumps(about)), **arrays)


def is_feature_file(data: str | None) -> bool:
    """Whether a name is that of a file of features, `.npy`, or `.parquet` as `table.to_parquet` writes it."""
    path = Path(data or "")
    if path.suffix == ".parquet" and path.is_file():
        import pyarrow.parquet as pq

        return b"randar_features" in (pq.read_schema(path).metadata or {})
    return path.suffix == ".npy"


def read_feature_set(data: str) -> JudgedSet:
    """A file of features (n, D)."""
    found = read_features(Path(data))
    if len(found.maps) != 1:
        raise ValueError(f"{data} holds the features {', '.join(found.maps)}: give a file with one of them")
    maps = next(iter(found.maps.values()))
    if maps.shape[1] != 1:
        raise ValueError(f"{data} holds maps {maps.shape}: pool them first, to (n, D)")
    rows = DiskRows(maps.reshape(len(maps), -1))
    return JudgedSet(Moments.of(rows, data), features=rows)


# What is measured


def measures(real: JudgedSet, fake: JudgedSet, judge: Judge | None, options: JudgeOptions) -> dict[str, float]:
    """All that the two sets allow, the Fréchet distance first; None as the judge of files of features."""
    named = judge.named if judge is not None else lambda measure: f"{PLAIN_NAMES[measure]}-features"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of few samples: the card says it, see `few`
        found = {named("FID"): frechet_distance(real.moments, fake.moments)}
    if real.spatial is not None and fake.spatial is not None:
        found[named("sFID")] = frechet_distance(real.spatial, fake.spatial)
    if fake.probabilities is not None:
        mean, deviation = score_of(fake.probabilities, judge, options)
        found |= {named("IS"): mean, f"{named('IS')} deviation": deviation}
    if real.features is not None and fake.features is not None:
        found |= manifold_scores(real.features, fake.features, options.k)._asdict()
        found[named("KID")] = kernel_distance(real.features, fake.features)
    return found


def score_of(probabilities: Rows, judge: Judge | None, options: JudgeOptions) -> tuple[float, float]:
    """The Inception Score in the parts that the variant has."""
    if judge is None or not isinstance(judge.network, InceptionEncoder):
        return inception_score(probabilities, min(options.splits, len(probabilities)))
    if options.variant == "adm":
        return inception_score(probabilities, size=ADM_SPLIT)
    shuffled = np.random.RandomState(FIDELITY_SEED).permutation(len(probabilities))
    return inception_score(SelectedRows(probabilities, shuffled), min(FIDELITY_SPLITS, len(probabilities)))


def top_1(found: JudgedSet, judge: Judge) -> float | None:
    """Share of the images that the network takes for their class, among the classes that both have by name.

    None where the classes of the images, or of the network, have no names, or none in common.
    """
    if found.probabilities is None or found.labels is None or not found.class_names or not judge.class_names:
        return None
    matched = same_classes(found.class_names, judge.class_names)
    common = np.flatnonzero(matched >= 0)
    known = np.flatnonzero(np.isin(found.labels, common))
    if not len(known):
        return None
    hits = 0
    for place, block in SelectedRows(found.probabilities, known).blocks():
        best = common[block[:, torch.from_numpy(matched[common])].argmax(1).numpy()]
        hits += int((best == found.labels[known[place]]).sum())
    return hits / len(known)


def protocol_of(judge: Judge | None, options: JudgeOptions) -> str:
    """The variant and its settings in words."""
    scores = f"precision, recall, density and coverage with k = {options.k}; kernel distance over all pairs"
    if judge is None:
        return f"distances of given features; {scores}"
    how = {
        "adm": f"ADM's variant, by torch-fidelity's port of the network; IS of parts of {ADM_SPLIT} in file order",
        "torch-fidelity": f"torch-fidelity's variant; IS of {FIDELITY_SPLITS} parts, shuffle of seed {FIDELITY_SEED}",
        "clean-fid": "clean-fid's variant, by torch-fidelity's port of the network",
    }
    inception = isinstance(judge.network, InceptionEncoder)
    which = how[options.variant] if inception else f"features {judge.features} of {judge.name}, which make no FID"
    which += "" if inception else f"; IS of {options.splits} parts"
    return f"{which}; images of {judge.image_size} pixels; {scores}"


def few(count: int, width: int) -> list[str]:
    """A warning of too few samples for a Fréchet distance."""
    if count >= FEW:
        return []
    singular = f", and below the {width} dimensions of the features, so that covariances are singular" * (
        count <= width
    )
    return [
        f"{count} samples are few{singular}: a Fréchet distance falls with their number; compare equal numbers only, "
        "and none with published ones of 50,000"
    ]


def described(data: str, split: str | None, count: int | None) -> str:
    """A set of images for a card."""
    parts = [data_hash(data), split or "all"]
    return " ".join([*parts, f"{count} evenly spread"] if count else parts)
