"""Every format that is read: how a small whole one is made, and how it is read."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, PngImagePlugin

from tests.fuzz.forging import forge_checkpoint, forge_index, forge_store

SIZE = 16
COUNT = 3
Read = Callable[[Path], Any]


def _all(path: Path) -> bool:
    return not path.name.startswith(".lock")


def _never(path: Path, way: str) -> bool:
    return False


@dataclass(frozen=True)
class Format:
    """A kind of file or folder.

    Attributes:
        make: writes a whole one into a folder.
        read: reads it; what it gives is compared with what it gives of the whole one.
        damages: which of its files, relative to the folder, are damaged.
        seals: of a file and a way of damage, whether a checksum shows it, so that nothing else may be read.
        forge: makes the checksums of a folder right after one of its files was damaged; None: there are none.
    """

    make: Callable[[Path], Any]
    read: Read
    damages: Callable[[Path], bool] = _all
    seals: Callable[[Path, str], bool] = _never
    forge: Callable[[Path, Path], None] | None = None


FORMATS: dict[str, Format] = {}


def digest(*arrays: Any) -> str:
    """Of arrays, to compare them."""
    hashed = hashlib.sha256()
    for array in arrays:
        values = np.ascontiguousarray(array)
        hashed.update(f"{values.dtype}{values.shape}".encode() + values.tobytes())
    return hashed.hexdigest()[:16]


# Pictures


def picture(seed: int = 0, mode: str = "RGB") -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    return image if mode == "RGB" else image.convert(mode)


SECRET = "secret.png"
"""A picture beside the folder, which no damage may bring into it."""


def secret_picture() -> Image.Image:
    return Image.new("RGB", (24, 20), (201, 3, 77))


def one_picture(name: str, mode: str = "RGB", **options: Any) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        image = picture(mode=mode)
        if options.get("save_all"):
            options["append_images"] = [picture(1, mode), picture(2, mode)]
        image.save(folder / name, **options)

    return make


def deep_picture(name: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        values = np.random.default_rng(0).integers(0, 65536, (20, 24), dtype=np.uint16)
        Image.fromarray(values).save(folder / name)

    return make


def interlaced(folder: Path) -> None:
    """Pillow cannot write one: a chunk of text, EXIF and a palette with transparency instead."""
    exif, text = Image.Exif(), PngImagePlugin.PngInfo()
    exif[0x0112] = 6
    text.add_itxt("note", "a" * 50)
    image = picture(mode="P")
    image.save(folder / "a.png", exif=exif, pnginfo=text, transparency=3)


def read_picture(folder: Path) -> Any:
    from randar_features.data import load_image

    [path] = folder.iterdir()
    return digest(load_image(path))


def png_seals(path: Path, way: str) -> bool:
    """Each chunk of a PNG has a checksum, which `png_field` puts right."""
    return path.suffix == ".png" and way != "png_field"


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 8, "about"
    return exif


PICTURES: dict[str, Callable[[Path], None]] = {
    "png": one_picture("a.png"),
    "png-palette": interlaced,
    "png-16": deep_picture("a.png"),
    "png-alpha": one_picture("a.png", "RGBA"),
    "jpeg": one_picture("a.jpg"),
    "jpeg-progressive": one_picture("a.jpg", progressive=True, exif=_exif()),
    "jpeg-cmyk": one_picture("a.jpg", "CMYK"),
    "gif": one_picture("a.gif", "P", save_all=True),
    "tiff": one_picture("a.tif", compression="tiff_lzw"),
    "tiff-plain": one_picture("a.tif"),
    "tiff-16": deep_picture("a.tif"),
    "bmp": one_picture("a.bmp"),
    "bmp-palette": one_picture("a.bmp", "P"),
    "webp": one_picture("a.webp"),
    "webp-animated": one_picture("a.webp", lossless=True, save_all=True, exif=_exif()),
    "avif": one_picture("a.avif"),
    "jpeg2000": one_picture("a.jp2"),
    "tga": one_picture("a.tga"),
    "ico": one_picture("a.ico"),
    "ppm": one_picture("a.ppm"),
}
for _name, _make in PICTURES.items():
    FORMATS[_name] = Format(_make, read_picture, seals=png_seals)


# Many pictures


def read_images(folder: Path, data: Any = None) -> Any:
    """Pixels and labels of all images; ValueError, with the image's file, where one is unreadable."""
    from randar_features.data import open_images
    from randar_features.store.records import printable

    source = open_images(folder if data is None else data)
    found = []
    for batch in source.batches(SIZE, 4):
        for row, status in enumerate(batch.status):
            if status != "ok":
                raise ValueError(f"{printable(batch.paths[row] or folder)}: {status}")
            found.append((digest(batch.pixels[row]), batch.labels[row]))
    return found, source.label_names


def png_bytes(seed: int) -> bytes:
    file = io.BytesIO()
    picture(seed).save(file, "PNG")
    return file.getvalue()


def make_tar(folder: Path) -> None:
    """Two classes and, in one of them, a tar in the tar."""
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w") as archive:
        _add(archive, "x.png", png_bytes(5))
    with tarfile.open(folder / "images.tar", "w", format=tarfile.GNU_FORMAT) as archive:
        for number in range(COUNT):
            _add(archive, f"{'cat' if number % 2 else 'dog'}/{number}.png", png_bytes(number))
        _add(archive, f"cat/{'long' * 40}.png", png_bytes(9))
        _add(archive, "bird.tar", inner.getvalue())


def make_webdataset(folder: Path) -> None:
    with tarfile.open(folder / "data.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        for number in range(COUNT):
            _add(archive, f"{number}.png", png_bytes(number))
            beside = (f"{number}.cls", str(number).encode()) if number else ("0.json", b'{"label": 0}')
            _add(archive, *beside)
        _add(archive, f"{'ü' * 60}.png", png_bytes(9))


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def read_file_of_images(folder: Path) -> Any:
    [path] = [path for path in folder.iterdir() if path.suffix in (".tar", ".parquet", ".csv", ".jsonl")]
    return read_images(folder, path)


def make_parquet(folder: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    rows = [{"bytes": png_bytes(number), "path": f"{number}.png"} for number in range(4)]
    (folder / "named.png").write_bytes(png_bytes(7))
    rows.append({"bytes": None, "path": "named.png"})
    table = pa.table({"image": rows, "label": [0, 1, 0, 1, 1]})
    features = {
        "image": {"_type": "Image"},
        "label": {"_type": "ClassLabel", "names": ["cat", "dog"]},
    }
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    parquet.write_table(table, folder / "train.parquet", row_group_size=2, write_page_checksum=True)


def make_saved(folder: Path) -> None:
    """What `datasets` writes with `save_to_disk`."""
    import datasets

    rows = {"image": [{"bytes": png_bytes(number), "path": None} for number in range(COUNT)], "label": [0, 1, 0]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    datasets.disable_progress_bars()
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(folder / "saved"))


def make_list(name: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        write_pictures(folder, "")
        rows = [{"file_name": f"{number}.png", "label": number % 2} for number in range(COUNT)]
        if name.endswith(".jsonl"):
            (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        else:
            lines = ["file_name,label", *(f"{row['file_name']},{row['label']}" for row in rows)]
            (folder / name).write_text("\n".join(lines) + "\n")

    return make


def write_pictures(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(COUNT):
            (folder / name / f"{number}.png").write_bytes(png_bytes(number))
    return folder


def only(*endings: str) -> Callable[[Path], bool]:
    return lambda path: path.name.endswith(endings) and _all(path)


def make_masks(ending: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        write_pictures(folder, "images")
        (folder / "masks").mkdir()
        for number in range(COUNT):
            values = np.random.default_rng(number).integers(0, 3, (20, 24), dtype=np.uint8)
            mask = Image.fromarray(values)
            if number:
                mask = mask.convert("P")
                mask.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
            mask.save(folder / "masks" / f"{number}{ending}")

    return make


def read_masks(folder: Path) -> Any:
    from randar_features.data import open_pairs

    pairs = open_pairs(folder)
    return [(digest(pairs[row].image), digest(pairs[row].mask)) for row in range(len(pairs))]


def mask_in(path: Path) -> bool:
    return path.parts[0] == "masks"


FORMATS |= {
    "tar": Format(make_tar, read_file_of_images, seals=lambda path, way: way != "tar_field"),
    "webdataset": Format(make_webdataset, read_file_of_images),
    "parquet": Format(make_parquet, read_file_of_images, only(".parquet")),
    "saved-table": Format(make_saved, lambda folder: read_images(folder / "saved")),
    "csv": Format(make_list("list.csv"), read_file_of_images, only(".csv")),
    "jsonl": Format(make_list("list.jsonl"), read_file_of_images, only(".jsonl")),
    "metadata-csv": Format(make_list("metadata.csv"), read_images, only(".csv")),
    "metadata-jsonl": Format(make_list("metadata.jsonl"), read_images, only(".jsonl")),
    "mask-png": Format(make_masks(".png"), read_masks, mask_in, png_seals),
    "mask-tiff": Format(make_masks(".tif"), read_masks, mask_in),
    "mask-bmp": Format(make_masks(".bmp"), read_masks, mask_in),
}


# Stores and indexes: every byte is under a checksum


def sealed(path: Path, way: str) -> bool:
    return True


def make_features(folder: Path) -> None:
    from tests.features.stores import pictures, write

    write(pictures(7), folder)


def read_features(folder: Path) -> Any:
    from randar_features import FeatureStore

    store = FeatureStore(folder)
    about = (store.labels.tolist(), store.paths, store.status, store.label_names, store.manifest)
    return [digest(store.array(name)) for name in store.names], repr(about)


def make_tokens(folder: Path) -> None:
    from tests.tokens import write_tokens

    codes = np.random.default_rng(0).integers(0, 40, (7, 2, 16))
    about: dict[str, Any] = {"views": ["centre crop", "mirror image"], "crop_range": 1.0, "image_size": 16}
    about |= {"tokenizer": "0123456789abcdef", "dtype": "float32", "vocab_size": 40}
    write_tokens(folder, codes, [0, 1, 2, 0, 1, 2, 0], label_names=["a", "b", "c"], shard_size=3, **about)


def read_tokens(folder: Path) -> Any:
    from randar_features.data.token_store import TokenStore

    store = TokenStore(folder)
    tokens, labels = store.batch(torch.arange(len(store)), torch.zeros(len(store), dtype=torch.long))
    return digest(tokens, labels), repr(store.manifest), store.num_classes, store.num_crops


def make_pixels(folder: Path) -> None:
    from randar_features.data.pixels import cache_pixels

    write_pictures(folder.parent / "pictures", "")
    cache_pixels(folder.parent / "pictures", folder / "cache", image_size=8)


def read_pixels(folder: Path) -> Any:
    from randar_features.data.pixels import PixelCache

    cache = PixelCache(folder / "cache")
    return digest(cache.pixels(torch.arange(len(cache))), cache.labels)


INDEXES: dict[str, dict[str, Any]] = {
    "index-flat": {"kind": "flat"},
    "index-hnsw": {"kind": "hnsw", "normalization": "standardized"},
    "index-ivfpq": {"kind": "ivfpq", "normalization": "whitened", "components": 8, "nlist": 4, "code_bytes": 4},
}


def make_index(**options: Any) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        from probes.index import build_index, choose_settings
        from probes.index.blocks import blocks_of

        rows = np.random.default_rng(0).normal(size=(400, 16)).astype(np.float32)
        settings = choose_settings(len(rows), 16, **options)
        columns = {"path": [f"{row}.png" for row in range(400)], "label": [row % 3 for row in range(400)]}
        features = {"encoder": "e", "weights": "w", "output": "reverse/image/1", "label_names": ["a", "b", "c"]}
        build_index(blocks_of(rows), 400, folder, settings=settings, features=features, columns=columns, progress=False)

    return make


def read_index(folder: Path) -> Any:
    from randar_features.retrieval.search import open_index

    index = open_index(folder)
    queries = np.random.default_rng(1).normal(size=(3, 16)).astype(np.float32)
    found = index.vectors.search(queries, 5)
    return digest(*found), repr((index.paths[:5], index.label_names, index.features, len(index)))


FORMATS |= {
    "features": Format(make_features, read_features, seals=sealed, forge=forge_store),
    "tokens": Format(make_tokens, read_tokens, seals=sealed, forge=forge_store),
    "pixels": Format(make_pixels, read_pixels, seals=sealed, forge=forge_store),
} | {
    name: Format(make_index(**options), read_index, seals=sealed, forge=forge_index)
    for name, options in INDEXES.items()
}


# Codes, models, checkpoints


def make_codes(folder: Path) -> None:
    for label in range(2):
        (folder / "codes" / str(label)).mkdir(parents=True)
        for number in range(2):
            codes = np.random.default_rng(number).integers(0, 40, (2, 16))
            np.save(folder / "codes" / str(label) / f"{number}.npy", codes)


def read_codes(folder: Path) -> Any:
    import shutil

    from randar_features.data.published_codes import import_codes

    out = folder.parent / "imported"
    shutil.rmtree(out, ignore_errors=True)
    store = import_codes(folder / "codes", out, vocab_size=40)
    assert store is not None
    for entry in store.unreadable:
        raise ValueError(f"{entry['path']}: {entry['reason']}")
    return read_tokens(out)


def make_model(folder: Path) -> None:
    from tests.small_models import write_folder

    write_folder(folder)
    (folder / "classes.json").write_text(json.dumps(["cat", "dog", "bird"]))


def make_pickles(folder: Path) -> None:
    from tests.small_models import small_transformer

    torch.save({"model": small_transformer().state_dict(), "step": 3}, folder / "model.pt")


def read_model(folder: Path) -> Any:
    from randar_features import load_model
    from randar_features.features.encode import encode_tokens

    model = load_model(folder, device="cpu")
    tokens = torch.zeros(1, model.transformer.config.num_tokens, dtype=torch.long)
    features = encode_tokens(model.transformer, tokens)
    return digest(features.numpy()), model.classes, digest(model.tokenizer.decode(tokens).numpy())


def read_pickle(folder: Path) -> Any:
    from randar_features.hub.weights import USUAL_KEY, load_weights
    from tests.small_models import small_transformer

    model = small_transformer()
    load_weights(model, folder / "model.pt", key=USUAL_KEY)
    return digest(*(value.numpy() for value in model.state_dict().values()))


def make_checkpoints(folder: Path) -> None:
    from randar_features.training.checkpoint import save_state, whole_checkpoint

    state = {"model": {"a": torch.rand(4, 4), "b": [torch.rand(3), 1.5, None]}, "step": 3, "seen": (1, 2)}
    with whole_checkpoint(folder, 3, {"model": {"dim": 4}}) as path:
        save_state(path, state, 1000)


def read_checkpoints(folder: Path) -> Any:
    from randar_features.training.checkpoint import newest_checkpoint

    logging.getLogger("randar_features").setLevel(logging.ERROR)
    saved = newest_checkpoint(folder)
    if saved is None:
        raise ValueError(f"no undamaged checkpoint in {folder}, as training says")
    return saved.step, saved.settings, _plain(saved.state())


def read_state(folder: Path) -> Any:
    from randar_features.training.checkpoint import load_state

    return _plain(load_state(folder / "step-00000003"))


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return digest(value.numpy())
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def make_settings(folder: Path) -> None:
    from randar_features.generation.gallery import save_png

    save_png(folder / "a.png", picture(), {"seed": 3, "class": 1, "model": "m"})


def read_settings(folder: Path) -> Any:
    from randar_features.generation.gallery import read_settings

    return read_settings(folder / "a.png")


def make_pairs(folder: Path) -> None:
    """Pictures and annotations as SPair-71k has them."""
    write_pictures(folder, "JPEGImages/cat")
    (folder / "PairAnnotation/test").mkdir(parents=True)
    about = {"category": "cat", "src_imname": "0.png", "trg_imname": "1.png", "trg_bndbox": [1, 2, 9, 9]}
    points = {"src_kps": [[1, 2], [3, 4]], "trg_kps": [[2, 2], [5, 4]]}
    (folder / "PairAnnotation/test/0-1.json").write_text(json.dumps(about | points))


def read_pairs(folder: Path) -> Any:
    from benchmarks.datasets.spair import load_spair

    found = load_spair(folder)
    [pair] = found.pairs
    return digest(found.load(pair.source)), digest(pair.points, pair.targets), pair.box, pair.category


def no_manifest(path: Path) -> bool:
    return path.name != "checkpoint.json"


FORMATS |= {
    "settings": Format(make_settings, read_settings),
    "point-pairs": Format(make_pairs, read_pairs),
    "codes": Format(make_codes, read_codes),
    "model": Format(make_model, read_model),
    "model-texts": Format(make_model, read_model, only(".json")),
    "pickle": Format(make_pickles, read_pickle),
    "checkpoints": Format(make_checkpoints, read_checkpoints, seals=sealed, forge=forge_checkpoint),
    "state": Format(make_checkpoints, read_state, no_manifest),
}


# Texts: recipes and results


def make_recipe(name: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        from randar_features.training.recipes import RECIPES

        (folder / name).write_bytes((RECIPES / name).read_bytes())

    return make


def read_transformer_recipe(folder: Path) -> Any:
    from randar_features.cli.train_transformer import TransformerOptions
    from randar_features.options.parse import read_options

    return repr(read_options(TransformerOptions, folder / "tiny.yaml", ["--tokens=t", "--out=o"]))


def read_tokenizer_recipe(folder: Path) -> Any:
    from randar_features.cli.train_tokenizer import TokenizerOptions
    from randar_features.options.parse import read_options

    return repr(read_options(TokenizerOptions, folder / "tiny_tokenizer.yaml", ["--data=d", "--out=o"]))


def make_results(folder: Path) -> None:
    from benchmarks.result import write_result
    from benchmarks.run import Measurement, card

    shared = {"resolution": 64, "threshold_basis": None, "selection": "a tenth", "normalization": None}
    rows = []
    for layer in range(2):
        row = {"encoder": "tiny", "context": "single", "layer": layer, "read": "image", "orders": "raster"}
        row |= {"output": f"single/image/{layer}", "pooling": "mean", "probe": "knn", "accuracy": 0.5}
        rows.append(row | {"interval": [0.4, 0.6], "seconds": 2.5, "rows": layer})
    for name in ("one", "two"):
        (folder / name).mkdir()
        picture().save(folder / name / "a.png")
        predictions = np.array([[0, 1, 1, 0], [0, 0, 1, 1]])
        about = {"labels": np.array([0, 1, 1, 1]), "predictions": predictions, "label_names": ["cat", "dog"]}
        np.savez(folder / name / "p.npz", **about)  # type: ignore[arg-type]
        made = card(
            Measurement(protocol="kNN, k = 20", results=[], axes=shared, data={"train": "a"}, weights={"tiny": "b"})
        )
        write_result(folder / name, made, rows, artifacts={"neighbours": "a.png", "predictions": "p.npz"})


def read_report(folder: Path) -> Any:
    from benchmarks.report.write import write_report

    out = write_report([folder], folder.parent / "report.html")
    return [path.read_text() for path in sorted(out.parent.iterdir()) if path.suffix in (".html", ".md")]


def read_difference(folder: Path) -> Any:
    from benchmarks.report.diff import compare_folders

    return compare_folders(folder / "one", folder / "two")


def read_frame(folder: Path) -> Any:
    from benchmarks.result import load_results

    return repr(load_results(folder).to_dict())


FORMATS |= {
    "recipe": Format(make_recipe("tiny.yaml"), read_transformer_recipe),
    "tokenizer-recipe": Format(make_recipe("tiny_tokenizer.yaml"), read_tokenizer_recipe),
    "report": Format(make_results, read_report),
    "difference": Format(make_results, read_difference, only(".json")),
    "frame": Format(make_results, read_frame, only(".json")),
}
