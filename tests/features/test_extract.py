from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from randar_features import Model, encode_tokens, extract_features
from randar_features.data import ImageError, open_images
from randar_features.features.store import Content, EncodedImages
from tests.features.stores import Stream
from tests.small_models import IMAGE_SIZE


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def tensors(pictures: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255


@pytest.fixture(scope="module")
def expected(small_model: Model, tensors: torch.Tensor) -> torch.Tensor:
    return encode_tokens(small_model.transformer, small_model.tokenizer.encode(tensors), layers=[0, 2])


def extract(images: object, model: Model, **options: object):
    return extract_features(images, model, **{"layers": [0, 2], "progress": False, **options})


@pytest.fixture
def folder(tmp_path: Path, pictures: np.ndarray) -> Path:
    for index, picture in enumerate(pictures):
        (tmp_path / f"class{index % 2}").mkdir(exist_ok=True)
        Image.fromarray(picture).save(tmp_path / f"class{index % 2}" / f"{index}.png")
    return tmp_path


def test_every_form_of_images_gives_the_same_features(
    small_model: Model, pictures: np.ndarray, tensors: torch.Tensor, expected: torch.Tensor, folder: Path
):
    import datasets

    pil = [Image.fromarray(picture) for picture in pictures]
    labels = torch.tensor([0, 1, 0, 1, 0])
    table = datasets.Dataset.from_dict({"image": pil, "label": labels.tolist()})
    table = table.cast_column("image", datasets.Image()).cast_column("label", datasets.ClassLabel(names=["a", "b"]))
    forms = {
        "paths": [folder / f"class{i % 2}/{i}.png" for i in range(5)],
        "pil": pil,
        "arrays": list(pictures),
        "stack": pictures,
        "tensor": tensors,
        "dataset": TensorDataset(tensors, labels),
        "loader": DataLoader(TensorDataset(tensors, labels), batch_size=2),
        "datasets": table,
        "stream": table.to_iterable_dataset(),
    }
    for name, images in forms.items():
        features = extract(images, small_model, batch_size=2)
        torch.testing.assert_close(features.maps, expected, atol=1e-5, rtol=1e-5, msg=name)
        if name in ("dataset", "loader", "datasets", "stream"):
            assert features.labels is not None and features.labels.tolist() == labels.tolist(), name
        else:
            assert features.labels is None, name
    assert extract(table, small_model).label_names == ["a", "b"]


def test_a_folder_gives_labels_and_paths(small_model: Model, folder: Path, expected: torch.Tensor):
    features = extract(folder, small_model)
    assert features.paths == [str(folder / f"class{i % 2}/{i}.png") for i in (0, 2, 4, 1, 3)]
    assert features.labels is not None and features.labels.tolist() == [0, 0, 0, 1, 1]
    assert features.label_names == ["class0", "class1"]
    torch.testing.assert_close(features.maps, expected[[0, 2, 4, 1, 3]], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 5, None])
def test_bad_images_keep_their_rows_and_shift_none(
    small_model: Model, folder: Path, expected: torch.Tensor, batch_size: int | None
):
    text, torn = folder / "text.jpg", folder / "torn.png"
    text.write_text("no picture")
    torn.write_bytes((folder / "class0/0.png").read_bytes()[:100])
    good = [folder / f"class{i % 2}/{i}.png" for i in range(5)]
    paths = [text, good[0], good[1], torn, good[2], folder / "missing.png", good[3], good[4]]
    with pytest.warns(UserWarning, match=r"3 of 8 images could not be read. image 0 \(.*text.jpg\)") as caught:
        features = extract(paths, small_model, batch_size=batch_size)
    assert caught[0].filename == __file__
    assert features.ok.tolist() == [False, True, True, False, True, False, True, True]
    assert features.maps is not None
    torch.testing.assert_close(features.maps[features.ok], expected, atol=1e-5, rtol=1e-5)
    assert features.maps[~features.ok].isnan().all()
    assert features.paths == [str(path) for path in paths]
    for row, name in ((0, "text.jpg"), (3, "torn.png"), (5, "missing.png")):
        assert name in features.status[row]


def test_only_bad_images_is_an_error(small_model: Model, tmp_path: Path):
    bad = tmp_path / "bad.jpg"
    bad.write_text("no picture")
    with pytest.raises(ImageError, match=r"1 of 1 images could not be read.*bad.jpg"):
        extract([bad], small_model)


def test_an_empty_folder_is_an_error(small_model: Model, tmp_path: Path):
    with pytest.raises((ValueError, FileNotFoundError), match=str(tmp_path)):
        extract(tmp_path, small_model)


def test_odd_pictures_are_converted(small_model: Model, tmp_path: Path):
    """Colour modes and sizes that are no squares of RGB become what their RGB square gives."""
    grey = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    plain = grey.convert("RGB")
    sixteen = Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16) * 257)
    opaque = plain.copy()
    opaque.putalpha(255)
    pictures = [plain, grey, sixteen, opaque, grey.convert("P"), Image.new("RGB", (1, 1), (9, 8, 7))]
    features = extract(pictures, small_model)
    assert features.ok.all() and features.maps is not None
    for row in range(1, 5):
        torch.testing.assert_close(features.maps[row], features.maps[0])
    flat = extract([Image.new("RGB", (16, 16), (9, 8, 7)), Image.new("CMYK", (16, 16))], small_model)
    torch.testing.assert_close(features.maps[5], flat.maps[0])


def test_pooling(small_model: Model, tensors: torch.Tensor, expected: torch.Tensor):
    mean = expected.mean(dim=(2, 3))
    maps, pooled = extract(tensors, small_model), extract(tensors, small_model, pool="mean")
    torch.testing.assert_close(maps.pooled("mean"), mean, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(pooled.pooled(), mean, atol=1e-5, rtol=1e-5)
    assert pooled.maps is None and pooled.layers == [0, 2]


def test_defaults_are_the_recommended_layers_and_reverse(small_model: Model, tensors: torch.Tensor):
    features = extract_features(tensors, small_model, progress=False)
    explicit = encode_tokens(
        small_model.transformer, small_model.tokenizer.encode(tensors), layers=small_model.recommended_layers
    )
    assert features.layers == small_model.recommended_layers
    torch.testing.assert_close(features.maps, explicit, atol=1e-5, rtol=1e-5)


def test_labels_do_not_leak_unless_asked_for(small_model: Model, tensors: torch.Tensor, expected: torch.Tensor):
    numbers = TensorDataset(tensors, torch.tensor([0, 1, 2, 1, 0]))
    names = ["Goldfish", "bull_frog", "tench"]
    small_model = replace(small_model, class_names=["goldfish", "bull frog", "tench, Tinca tinca", "newt"])
    images = TensorDataset(tensors, torch.tensor([0, 1, 2, 1, 0]))
    images.classes = names
    torch.testing.assert_close(extract(images, small_model).maps, expected, atol=1e-5, rtol=1e-5)
    tokens = small_model.tokenizer.encode(tensors)
    labelled = encode_tokens(small_model.transformer, tokens, torch.tensor([0, 1, 2, 1, 0]), layers=[0, 2])
    for classes in ("labels", [0, 1, 2, 1, 0]):
        features = extract(images, small_model, classes=classes, batch_size=2)
        torch.testing.assert_close(features.maps, labelled, atol=1e-5, rtol=1e-5)
    for unnamed in (numbers, tensors):
        with pytest.raises(ValueError, match="the images come without class names"):
            extract(unnamed, small_model, classes="labels")
    images.classes = ["goldfish", "cat", "tench"]
    with pytest.raises(ValueError, match=r"1 of 3 are none, .*'cat'"):
        extract(images, small_model, classes="labels")
    images.classes, images.tensors = names, (tensors, torch.tensor([0, 1, -1, 1, 0]))
    with pytest.raises(ValueError, match="a label for every image, and image 2 has none"):
        extract(images, small_model, classes="labels")
    assert not torch.allclose(labelled, expected, atol=1e-4)
    one = extract(images, small_model, classes=np.int64(1))
    torch.testing.assert_close(one.maps[1], labelled[1], atol=1e-5, rtol=1e-5)
    for given in ([0, 1], [0] * 6):
        with pytest.raises(ValueError, match=f"{len(given)} classes were given for 5 images"):
            extract(images, small_model, classes=given)
    with pytest.raises(ValueError, match="2 classes were given for at least 4 images"):
        extract(Stream(tensors), small_model, classes=[0, 1], batch_size=4)
    with pytest.raises(TypeError, match="set have no order"):
        extract(images, small_model, classes={0, 1, 2, 3, 4})
    with pytest.raises(TypeError, match=r"classes.*got 0\.7"):
        extract(images, small_model, classes=[0.7] * 5)
    with pytest.raises(ValueError, match='classes must be None, "labels", an index'):
        extract(images, small_model, classes="label")


def test_features_can_be_trained_on(small_model: Model, tensors: torch.Tensor):
    for features in (extract(tensors, small_model), extract(tensors, small_model, pool="mean")):
        head = torch.nn.Linear(32, 2)
        head(features.pooled()[:, 0]).sum().backward()
        torch.testing.assert_close(head.weight.grad[0], features.pooled()[:, 0].sum(0))


def test_details_say_what_the_numbers_depend_on(small_model: Model, tensors: torch.Tensor):
    details = extract(tensors, small_model, orders=2, seed=3, dtype=torch.bfloat16, classes=[0, 1, 2, 0, 1]).details
    expected = {"layers": [0, 2], "orders": 2, "seed": 3, "dtype": "bfloat16", "classes": [0, 1, 2, 0, 1]}
    assert expected.items() <= details.items()
    assert details["weights"] == small_model.weights_hash
    assert repr(extract(tensors, small_model)) == (
        "FeatureTable(5 of 5 images, maps (4, 4, 32) of reverse/image/0, reverse/image/2)"
    )


def test_several_orders_do_not_depend_on_the_batch(small_model: Model, tensors: torch.Tensor):
    together = extract(tensors, small_model, orders=3)
    by_one = extract(tensors, small_model, orders=3, batch_size=1)
    torch.testing.assert_close(together.maps, by_one.maps, atol=1e-5, rtol=1e-5)
    other = extract(tensors, small_model, orders=3, seed=1)
    assert not torch.allclose(other.maps, together.maps, atol=1e-4)
    joined = extract(tensors, small_model, orders=2, combine="concatenate")
    assert joined.maps is not None and together.maps is not None
    assert joined.maps.shape[-1] == 2 * together.maps.shape[-1]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"layers": [3]}, IndexError, "layer 3 is out of range: the model has 3 layers"),
        ({"context": "double"}, ValueError, "context must be one of single, repeat, reverse; got 'double'"),
        ({"read": "class"}, ValueError, "read must be one of"),
        ({"pool": "max"}, ValueError, "pool must be one of mean; got 'max'"),
        ({"layers": [1.5]}, TypeError, "layers.*got 1.5"),
        ({"orders": 0}, ValueError, "at least 1, got 0"),
        ({"orders": "all"}, TypeError, "orders.*got 'all'"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"dtype": torch.int8}, ValueError, "dtype=torch.int8.*float32"),
        ({"append": "no"}, TypeError, "append must be True or False, got 'no'"),
        ({"append": True}, ValueError, "append=True is for a table on disk"),
        ({"store_dtype": "float16"}, ValueError, "store_dtype=float16 is for a table on disk"),
        ({"store_dtype": "float8"}, ValueError, "store_dtype.*'float8'"),
    ],
)
def test_bad_settings_are_refused(small_model: Model, tensors: torch.Tensor, options: dict, error: type, message: str):
    with pytest.raises(error, match=message):
        extract(tensors, small_model, **options)


def test_reduced_precision_stays_close(small_model: Model, tensors: torch.Tensor, expected: torch.Tensor):
    features = extract(tensors, small_model, dtype=torch.bfloat16)
    assert features.maps is not None and features.maps.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(features.maps, expected, dim=-1).min() > 0.999


def test_numbers_of_any_integer_type_are_recorded_as_pythons(small_model: Model, tensors: torch.Tensor, tmp_path: Path):
    short = {name: np.uint8(value) for name, value in {"orders": 2, "seed": 3, "batch_size": 2}.items()}
    table = extract(tensors, small_model, pool="mean", **short)
    stored = extract(tensors, small_model, pool="mean", out=tmp_path / "out", shard_rows=np.uint8(2), **short)
    torch.testing.assert_close(stored.pooled(), table.pooled())
    assert (table.save(tmp_path / "saved").details["orders"], table.details["seed"]) == (2, 3)


@pytest.mark.parametrize("wrong", [{"append": np.array([True, False])}, {"retry": torch.tensor([1, 0])}, {"append": 1}])
def test_a_flag_is_true_or_false(small_model: Model, tensors: torch.Tensor, wrong: dict[str, object]):
    with pytest.raises(TypeError, match="must be True or False"):
        extract(tensors, small_model, **wrong)


@pytest.mark.parametrize("name", ["pool", "combine", "store_dtype", "dtype"])
def test_an_array_in_the_place_of_a_name_is_refused_by_name(small_model: Model, tensors: torch.Tensor, name: str):
    with pytest.raises(ValueError, match=name):
        extract(tensors, small_model, **{name: np.array([1, 0])})


def test_small_features_are_stored_whatever_numpy_does_on_underflow():
    black = np.zeros((1, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    content = Content(encoder="tiny", weights="", outputs={"f": {}}, image_size=IMAGE_SIZE, pooling=None)
    encoded = EncodedImages(
        open_images(black), lambda pixels: {"f": torch.full((1, 2), 1e-12)}, content, batch_size=1, num_workers=0
    )
    with np.errstate(all="raise"):
        (block,) = encoded.read(iter([[0]]))
    assert block.columns["f"].tolist() == [[0, 0]]
