"""Images to features as a module, with timm's contract."""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from randar_features import sequence
from randar_features.features.encode import encode_specs
from randar_features.features.spec import FeatureSpec, model_spec, model_specs
from randar_features.hub import Model, load_model
from randar_features.models.base import Indices
from randar_features.precision import DType, check_dtype, compute_dtype, computing_in
from randar_features.sequence import as_index, has_several


class ImageEncoder(nn.Module):
    """Images to features, with the contract of timm's vision transformers.

    Args:
        model: a name, a folder, or a loaded model. The modules of a loaded model are shared, not copied, unless
            `dtype` needs weights in another format (see `precision`).
        layer: the block that `forward_features` reads; None: the model's first recommended one.
        context, read: see `encode_tokens`.
        orders: None: the model's own order; K: mean over K seeded random orders.
        seed: seed of the K orders.
        dtype: what it computes in: "float32", "bfloat16", "float16", the torch dtype of that name, or "auto", the
            fastest of this machine; None: the format of the weights, or of the caller's autocast.
        num_classes: classes of a linear classifier on the mean of the features; 0: no classifier.

    Attributes:
        layer, context, read: the block that `forward_features` reads, how the image is shown, and at which tokens.
        num_features: D. Also embed_dim, head_hidden_size.
        grid_size: (G, G).
        image_size: S; images are (B, 3, S, S) in [0, 1], as `pretrained_cfg` tells timm's transforms.
        feature_info: the module, number of channels and reduction of each block.

    The model starts frozen. It stays in evaluation mode when the module around it trains, because its dropout would
    blur the features. Within `torch.compile` and `torch.export` the range of the images is not checked.
    """

    def __init__(
        self,
        model: str | Model = "randar-tiny",
        *,
        layer: int | None = None,
        context: str | None = None,
        read: str = "image",
        orders: int | None = None,
        seed: int = 0,
        dtype: DType = None,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        self.dtype = check_dtype(dtype)
        loaded = load_model(model)
        # Unknown names and numbers are refused now, not at the first image.
        self.spec = model_spec(loaded, layer=layer, context=context, read=read, orders=orders, seed=seed)
        self.layer, self.context, self.read = self.spec.layer, self.spec.context, self.spec.read
        loaded = loaded if dtype is None else loaded.fitted(dtype)[0]
        self.tokenizer, self.transformer = loaded.tokenizer.eval(), loaded.transformer.eval()
        config = self.transformer.config
        self.image_size = loaded.image_size
        self.num_features = self.embed_dim = self.head_hidden_size = config.dim
        self.grid_size = (config.grid, config.grid)
        names = {id(module): name for name, module in self.named_modules()}
        about = {"num_chs": self.num_features, "reduction": self.image_size // config.grid}
        self.feature_info = [{"module": names[id(block)], **about} for block in self.transformer.blocks]
        self.pretrained_cfg = self.default_cfg = timm_config(loaded.name, loaded.image_size)
        self.reset_classifier(num_classes)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of this module and its classifier; tokenizer and transformer stay in evaluation mode."""
        super().train(mode)
        self.tokenizer.eval()
        self.transformer.eval()
        return self

    def forward(self, x: Tensor, classes: Indices | int | None = None) -> Tensor:
        """(B, 3, S, S) → the classifier's (B, num_classes), without one the mean over locations (B, D)."""
        return self.forward_head(self.forward_features(x, classes))

    def forward_features(self, x: Tensor, classes: Indices | int | None = None) -> Tensor:
        """Features of `layer`: (B, 3, S, S) in [0, 1] → (B, G·G, D) float32, raster order."""
        return self.encode(x, classes, layers=[self.layer])[:, 0].flatten(1, 2)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Features (B, G·G, D) → mean over locations (B, D), and unless `pre_logits` the classifier on it."""
        pooled = x.mean(dim=1)
        if pre_logits:
            return pooled
        # Features are float32 always, and `.to(torch.bfloat16)` converts the classifier.
        return self.head(pooled.to(self.head.weight.dtype) if isinstance(self.head, nn.Linear) else pooled)

    def get_classifier(self) -> nn.Module:
        """The classifier; `nn.Identity` without one."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A fresh linear classifier of `num_classes` classes, 0: none. The pooling is always the mean, "avg"."""
        if as_index("num_classes", num_classes) < 0:
            raise ValueError(f"num_classes must be at least 0, got {num_classes}")
        sequence.check_choice("global_pool", "avg" if global_pool is None else global_pool, ("avg",))
        self.num_classes, self.global_pool = num_classes, "avg"
        weight = self.transformer.code_embedding.weight
        self.head: nn.Module = nn.Identity()
        if num_classes:
            self.head = nn.Linear(self.num_features, num_classes, device=weight.device)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Whether the gradients are computed with less memory, in more time; they are the same."""
        self.transformer.set_grad_checkpointing(enable)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = True,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Features of several layers, as timm's vision transformers give them.

        Args:
            x: (B, 3, S, S) in [0, 1].
            indices: layer indices; an int n: the last n layers; None: all that have the read. As in timm
                the maps come by depth, each layer once.
            norm: apply the final norm to each.
            stop_early: with `intermediates_only`, run no block after the deepest index (always so here).
            output_fmt: "NCHW": (B, D, G, G); "NLC": (B, G·G, D).
            intermediates_only: leave out the last layer's normed features (B, G·G, D), which come first otherwise.
        """
        sequence.check_choice("output_fmt", output_fmt, ("NCHW", "NLC"))
        available = self.transformer.layers_of(self.read)
        wanted = self._layers_at(indices)
        layers = wanted if intermediates_only else [*wanted, available[-1]]
        maps = self.encode(x, layers=layers, norm=norm)
        final, maps = maps[:, -1], maps[:, : len(wanted)]
        if output_fmt == "NCHW":
            intermediates = list(maps.permute(1, 0, 4, 2, 3).unbind(0))
        else:
            intermediates = list(maps.flatten(2, 3).unbind(1))
        if intermediates_only:
            return intermediates
        final = final if norm else self.transformer.final_norm(self.read)(final)
        return final.flatten(1, 2), intermediates

    def _layers_at(self, indices: int | Sequence[int] | None) -> list[int]:
        """The layers of timm's `indices`, by depth, each once."""
        available = list(self.transformer.layers_of(self.read))
        if indices is None:
            return available
        if not has_several(indices):
            count = as_index("indices", indices)
            if not 1 <= count <= len(available):
                raise IndexError(f"indices={count} stands for the last {count} layers: the model has {len(available)}")
            return available[-count:]
        specs = model_specs(self.transformer, layers=indices, context=self.context, read=self.read)
        return sorted(spec.layer for spec in specs)

    def encode(
        self, x: Tensor, classes: Indices | int | None = None, *, layers: Sequence[int], norm: bool = False
    ) -> Tensor:
        """Maps (B, L, G, G, D) float32 of the given layers, counted from 0."""
        self._check(x)
        specs = [
            FeatureSpec(self.context, self.read, layer, self.spec.orders, norm, self.spec.seed) for layer in layers
        ]
        weight = self.transformer.code_embedding.weight
        own = None if self.dtype is None else compute_dtype(self.dtype, weight.device, weight.dtype)
        with computing_in(own, weight.device, weight.dtype):
            maps = encode_specs(self.transformer, self.tokenizer.encode(x), specs, classes)
        return torch.stack([maps[spec] for spec in specs], dim=1)

    def _check(self, x: Tensor) -> None:
        if not isinstance(x, Tensor):
            raise TypeError(
                f"images must be a float tensor, got {type(x).__name__}: extract_features takes other forms"
            )
        if x.shape[-2:] != (self.image_size, self.image_size):
            raise ValueError(
                f"images must be {self.image_size}x{self.image_size} pixels, shape (B, 3, {self.image_size}, "
                f"{self.image_size}); got {tuple(x.shape)}: crop with randar_features.data.adm_center_crop"
            )


def timm_config(name: str, image_size: int) -> dict[str, Any]:
    """What timm's `resolve_model_data_config` and `create_transform` need, so that images come out in [0, 1]."""
    return {
        "architecture": name.replace("-", "_"),
        "input_size": (3, image_size, image_size),
        "fixed_input_size": True,
        "mean": (0.0, 0.0, 0.0),
        "std": (1.0, 1.0, 1.0),
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "crop_mode": "center",
        "num_classes": 0,
        "classifier": "head",
    }


RandAREncoder = ImageEncoder
