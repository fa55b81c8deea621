"""A name or a folder to a loaded model: bundled, written by training, or from the Hugging Face Hub."""

import copy
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

import torch
from torch import nn

from randar_features.hub.files import WeightsFile
from randar_features.hub.published import ModelSource
from randar_features.hub.registry import find_source, imagenet_classes
from randar_features.hub.weights import build_empty, file_hash, load_weights, weights_hash
from randar_features.layers.packed_linear import check_packed, packed_format, product_dtype
from randar_features.models import ARCHITECTURES, ImageTransformer, middle_layer
from randar_features.precision import DType, can_compute, compute_dtype, weights_dtype
from randar_features.tokenizers import ImageTokenizer, LlamaGenTokenizer, MaskGITTokenizer, NetworkTokenizer

TOKENIZERS: dict[str, type[ImageTokenizer]] = {
    "llamagen": LlamaGenTokenizer,
    "maskgit": MaskGITTokenizer,
    "network": NetworkTokenizer,
}
BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # integers of as many bytes as a weight
TRAINED_ORDERS = ("random", "raster")
SMALL_FILE = 10_000_000  # numbers that are built at once whatever the file of weights holds

Name = str | os.PathLike[str]
Device = torch.device | str


@dataclass(kw_only=True, eq=False, repr=False)
class Model:
    """A transformer and its tokenizer, in evaluation mode and without gradients; `load_model` makes it.

    Attributes:
        name: the registered name, or the folder it came from.
        transformer: the generator.
        recommended_layers: blocks to read features from, counted from 0, the best first.
        weights_hash: 16 hexadecimal digits, the same for the same files of weights and, where a folder describes the
            model, the same sizes in its config.json.
        optional_tokenizer: the tokenizer; None if the folder holds only a transformer.
        class_names: one name for each class; "imagenet": the names of ImageNet, looked up when read; or None.
        revision: commit of the transformer's Hub repository, None for a folder.
        tokenizer_revision: commit of the tokenizer's Hub repository, None for a folder.
    """

    name: str
    transformer: ImageTransformer
    recommended_layers: list[int]
    weights_hash: str
    optional_tokenizer: ImageTokenizer | None = None
    class_names: list[str] | str | None = None
    revision: str | None = None
    tokenizer_revision: str | None = None

    def __post_init__(self) -> None:
        self._checksum = self._sum_of_weights()

    def _sum_of_weights(self) -> int:
        """A number that changes with the weights, and is the same on every device."""
        return sum(_sum_of_bits(part) for part in (self.transformer, self.optional_tokenizer) if part is not None)

    def as_it_is(self) -> Self:
        """This model; if its weights were changed after it was loaded, with a `weights_hash` of their values.

        So features of a model that was trained further are not taken for those of its files. Packed weights
        (`pack_weights`) cannot change.
        """
        if packed_format(self.transformer) is not None or self._sum_of_weights() == self._checksum:
            return self
        values = weights_hash(self.transformer) + (weights_hash(self.tokenizer) if self.optional_tokenizer else "")
        return replace(self, weights_hash=hashlib.sha256(values.encode()).hexdigest()[:16])

    @property
    def tokenizer(self) -> ImageTokenizer:
        """Images to tokens and back; ValueError if only a transformer was loaded."""
        if self.optional_tokenizer is None:
            raise ValueError(
                f"{self.name} holds a transformer without a tokenizer, which images need: put "
                'tokenizer.safetensors into that folder, and its "tokenizer" entry into config.json there'
            )
        return self.optional_tokenizer

    @property
    def image_size(self) -> int:
        """Side in pixels of the images that give the transformer's N = G² tokens; ValueError as for `tokenizer`."""
        return self.transformer.config.grid * self.tokenizer.downsampling

    @property
    def classes(self) -> list[str] | None:
        """The name of each class; None if the names are not known."""
        return imagenet_classes() if isinstance(self.class_names, str) else self.class_names

    @property
    def recommended_steps(self) -> int | None:
        """Parallel decoding steps for one image; None: as published for its architecture."""
        return self.transformer.recommended_steps

    @property
    def device(self) -> torch.device:
        """Device of the transformer."""
        return self.transformer.device

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the transformer's weights."""
        return self.transformer.dtype

    def to(self, device: Device | None = None, dtype: torch.dtype | str | None = None) -> Self:
        """A copy on another device or in another format; the model itself if it is already there. None: no change.

        ValueError: the weights are packed (`pack_weights`), so that they cannot change.
        """
        target = self.device if device is None else torch.empty(0, device=choose_device(device)).device
        dtype = self.dtype if dtype is None else weights_dtype(dtype)
        if (target, dtype) == (self.device, self.dtype):
            return self
        if (packed := packed_format(self.transformer)) is not None:
            raise ValueError(
                f"the weights are packed in {packed} on {self.device}, and stay so: for {dtype} on {target} take the "
                "model that they were packed from"
            )
        transformer = copy.deepcopy(self.transformer).to(target, dtype)
        tokenizer = copy.deepcopy(self.optional_tokenizer)
        return replace(
            self.as_it_is(), transformer=transformer, optional_tokenizer=tokenizer and tokenizer.to(target, dtype)
        )

    def fitted(self, dtype: DType = None) -> tuple[Self, torch.dtype]:
        """A model that can compute in `dtype`, and that number format; see `precision`.

        The model is this one if its weights are in `dtype` or in float32, else a copy in float32. One whose
        transformer is packed (`pack_weights`) computes in the format of that; ValueError if another is stated.
        """
        own = compute_dtype(dtype, self.device, product_dtype(self.transformer))
        if dtype is not None:
            check_packed(self.transformer, own)
        return (self if can_compute(own, self.dtype) else self.to(dtype=torch.float32)), own

    def __repr__(self) -> str:
        """Name, weights, dtype and device; the modules themselves print pages."""
        return f"Model({self.name!r}, weights {self.weights_hash}, {self.dtype} on {self.device})"


def _sum_of_bits(module: nn.Module) -> int:
    """The bits of all parameters, added up as integers of 8 bytes, which is the fastest, or of a weight's size."""
    sums = []
    for values in module.parameters():
        bits = values.detach().flatten()
        if bits.storage_offset() * bits.itemsize % 8:
            bits = bits.clone()  # from where integers of 8 bytes may begin
        bits = bits.view(torch.int64 if bits.nbytes % 8 == 0 else BITS[bits.itemsize])
        sums.append(bits.sum(dtype=torch.int64))
    return int(torch.stack(sums).sum()) if sums else 0


def load_model(name: Name | Model, device: Device | None = None, dtype: torch.dtype | str | None = None) -> Model:
    """Load a transformer and its tokenizer, ready to encode and to generate.

    Args:
        name: one of

            - a name from `list_models`. `name@revision` takes a branch, tag or commit of the transformer's Hub
              repository; the tokenizer has its own repository and always comes from "main";
            - a folder that training wrote: of a model, of a checkpoint, or of the run;
            - `owner/name` or `owner/name@revision`, a repository of the Hugging Face Hub with the files of such a
              folder;
            - a loaded model. It is returned as it is, or copied if `device` or `dtype` differ from its own. If its
              weights were changed since, it has the hash of their values.
        device: None: CUDA if there is one, else the CPU.
        dtype: number format of the weights in memory, a torch dtype or its name; None: float32, whatever the files
            hold. Calls compute in this format unless they state another.

    Raises:
        TypeError: `name` is not a string, path or `Model`, or `dtype` is not a floating-point format.
        ValueError: the name or the device is unknown, or a file does not fit its configuration.
        FileNotFoundError: a folder or a file is missing, or the Hub cannot be reached.
    """
    if isinstance(name, Model):
        return name.as_it_is().to(device, dtype)
    source, device, dtype = find_source(name), choose_device(device), weights_dtype(dtype)
    transformer = _build(source, "transformer")
    tokenizer = _build(source, "tokenizer") if "tokenizer" in source.config else None
    _check_fit(source, transformer, tokenizer)
    weights = _load(source, "transformer", transformer, device, dtype)
    tokenizer_weights = tokenizer and _load(source, "tokenizer", tokenizer, device, dtype)
    transformer.trained_order = _trained_order(source)
    return _model(
        source,
        transformer,
        tokenizer,
        _hash_of(source, [file for file in (weights, tokenizer_weights) if file]),
        revision=weights.revision,
        tokenizer_revision=tokenizer_weights.revision if tokenizer_weights else None,
    )


def untrained_model(name: Name) -> Model:
    """The model of that name or folder with initial values, drawn by torch's global generator; reads no weights.

    Errors as for `load_model`.
    """
    source = find_source(name)
    with torch.device("cpu"):
        transformer, tokenizer = _build(source, "transformer", fresh=True), _build(source, "tokenizer", fresh=True)
    transformer.initialize()
    for module in (transformer, tokenizer):
        module.requires_grad_(False).eval()
    return _model(source, transformer, tokenizer, "random")


def _model(
    source: ModelSource,
    transformer: ImageTransformer,
    tokenizer: ImageTokenizer | None,
    weights_hash: str,
    **revisions: str | None,
) -> Model:
    """The model as its configuration describes it, with the hash and the revisions of its weights."""
    layers, transformer.recommended_steps = _recommended(source, transformer)
    return Model(
        name=source.name,
        transformer=transformer,
        recommended_layers=layers,
        weights_hash=weights_hash,
        optional_tokenizer=tokenizer,
        class_names=source.classes,
        **revisions,
    )


def transformer_of(model: Any) -> ImageTransformer:
    """The transformer of a model, and a transformer as it is; TypeError for anything else."""
    transformer: ImageTransformer = getattr(model, "transformer", model)
    if not hasattr(transformer, "config"):
        raise TypeError(f"a model, as load_model gives it, or its transformer is expected; got {str(model)[:80]!r}")
    return transformer


def load_tokenizer(
    name: Name, device: Device | None = None, dtype: torch.dtype | str | None = None
) -> tuple[ImageTokenizer, int]:
    """Load a tokenizer without its transformer; returns it and the side in pixels of the images it was trained on.

    Arguments and errors are those of `load_model`; a folder needs no transformer. `@revision` has no effect on the
    tokenizer, which has its own repository.
    """
    source, device, dtype = find_source(name), choose_device(device), weights_dtype(dtype)
    tokenizer = _build(source, "tokenizer")
    if not isinstance(source.config.get("image_size"), int):
        raise ValueError(f'the configuration of {source.name} has no "image_size", a number of pixels')
    _load(source, "tokenizer", tokenizer, device, dtype)
    return tokenizer, source.config["image_size"]


def choose_device(device: Device | None) -> torch.device:
    """`device`, or for None CUDA where there is one, else the CPU; ValueError if there is no such device."""
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(device)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"device={device!r} is no device: use 'cpu', 'cuda', 'cuda:1' or None") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={str(device)!r}, but PyTorch sees no CUDA device here: use 'cpu' or None")
    if not _is_there(device):
        here = ", ".join(["'cpu'", *(f"'cuda:{index}'" for index in range(torch.cuda.device_count()))])
        raise ValueError(f"device={str(device)!r}, but this machine has no such device: use {here} or None")
    return device


def _is_there(device: torch.device) -> bool:
    """Whether numbers can be computed there; "meta" has shapes alone."""
    if device.type == "meta":
        return False
    try:
        return bool(torch.zeros(1, device=device).cpu().numel())
    except (RuntimeError, AssertionError, NotImplementedError, ImportError):
        return False


def _build(source: ModelSource, part: str, *, fresh: bool = False) -> Any:
    """The transformer or the tokenizer that the configuration describes, without values or with `fresh` ones."""
    if not isinstance(source.config.get(part), Mapping):
        present = ", ".join(source.config) or "nothing"
        raise ValueError(f'the configuration of {source.name} has no "{part}" entry (it has {present})')
    options = dict(source.config[part])
    kind = options.pop("type", None)
    known: Mapping[str, Any] = ARCHITECTURES if part == "transformer" else TOKENIZERS
    if not isinstance(kind, str) or kind not in known:
        raise ValueError(f"{source.name}: unknown {part} type {kind!r}, expected one of {', '.join(known)}")
    build = partial(_construct, known[kind], options)
    try:
        return build() if fresh else build_empty(build, _most_numbers(source, part))
    except (TypeError, ValueError, ArithmeticError, RuntimeError, MemoryError) as error:
        raise ValueError(f'the "{part}" entry in the configuration of {source.name}: {error}') from error


def _construct(kind: Any, options: Mapping[str, Any]) -> Any:
    """A tokenizer of that class; a transformer of that class and class of configuration."""
    return kind[0](kind[1](**options)) if isinstance(kind, tuple) else kind(**options)


def _most_numbers(source: ModelSource, part: str) -> int | None:
    """How many weights the file of a part can hold, a byte each, and a margin; None while it is not on this machine."""
    file = source.files.get(part)
    if isinstance(file, WeightsFile) and file.path.is_file():
        return file.path.stat().st_size + SMALL_FILE
    return None


def _check_fit(source: ModelSource, transformer: ImageTransformer, tokenizer: ImageTokenizer | None) -> None:
    """ValueError if transformer, tokenizer and image size do not go together."""
    sizes, names = transformer.config, source.classes
    if isinstance(names, list) and len(names) != sizes.num_classes:
        raise ValueError(f"{source.name} has {len(names)} class names for {sizes.num_classes} classes")
    if tokenizer is None:
        return
    if tokenizer.vocab_size != sizes.vocab_size:
        raise ValueError(
            f"{source.name}: the tokenizer has {tokenizer.vocab_size} codes, the transformer "
            f"{sizes.vocab_size}: are they of the same training?"
        )
    side = sizes.grid * tokenizer.downsampling
    if source.config.get("image_size", side) != side:
        raise ValueError(
            f'{source.name}: "image_size" is {source.config["image_size"]!r}, but {sizes.grid}x{sizes.grid} '
            f"tokens at a downsampling factor of {tokenizer.downsampling} make {side} pixels"
        )


def _trained_order(source: ModelSource) -> str:
    """What training wrote to config.json as the order it trained in; "random" where it says nothing of it."""
    training = source.config.get("training")
    order = training.get("order", "random") if isinstance(training, Mapping) else "random"
    if order not in TRAINED_ORDERS:
        raise ValueError(
            f'"order" under "training" in the config.json of {source.name} is {order!r}, expected '
            f"{' or '.join(TRAINED_ORDERS)}"
        )
    return order


def _recommended(source: ModelSource, transformer: ImageTransformer) -> tuple[list[int], int | None]:
    """Layers and steps from config.json; without them the middle block, and the published number of steps (None)."""
    given, config = source.config.get("recommended", {}), transformer.config
    last = config.num_layers - 1
    where = f"in the config.json of {source.name}"
    if not isinstance(given, Mapping):
        raise ValueError(f'"recommended" {where} is {given!r}, expected an object with "layers" and "steps"')
    layers, steps = given.get("layers"), given.get("steps")
    if layers is None:
        layers = [middle_layer(transformer)]
    if not isinstance(layers, list) or not layers or not all(_within(layer, 0, last) for layer in layers):
        raise ValueError(f'"layers" under "recommended" {where} is {layers!r}, expected a list of blocks, 0 to {last}')
    if steps is not None and not _within(steps, 1, config.num_tokens):
        raise ValueError(
            f'"steps" under "recommended" {where} is {steps!r}, expected an integer, 1 to {config.num_tokens}'
        )
    return layers, steps


def _within(value: Any, lowest: int, highest: int) -> bool:
    """Whether it is an integer of that range, ends included."""
    return isinstance(value, int) and not isinstance(value, bool) and lowest <= value <= highest


def _hash_of(source: ModelSource, files: Sequence[WeightsFile]) -> str:
    """Hash of the files, and of the sizes in a user's config.json: equal weights in other heads compute otherwise."""
    digests = [file_hash(file.path) for file in files]
    if source.of_user:
        digests.append(json.dumps({part: source.config.get(part) for part in source.files}, sort_keys=True))
    return hashlib.sha256("".join(digests).encode()).hexdigest()[:16]


def _load(
    source: ModelSource, part: str, module: torch.nn.Module, device: torch.device, dtype: torch.dtype
) -> WeightsFile:
    weights = source.fetch(part)
    load_weights(module, weights.path, key=weights.key, device=device, dtype=dtype)
    return weights
