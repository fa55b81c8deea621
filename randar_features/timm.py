"""The models under timm's factory: importing this module registers "randar_tiny" and the published names.

    import timm
    import randar_features.timm

    encoder = timm.create_model("randar_tiny", pretrained=True, num_classes=10)
    stages = timm.create_model("randar_tiny", pretrained=True, features_only=True, out_indices=(1, 3))

A name is that of `list_models()` with "_" for "-". Models are `ImageEncoder`s and take its options (`layer`, `context`,
`read`, `orders`, `dtype`); `features_only` gives maps (B, D, G, G) of `out_indices`, by default of the layers that the
model recommends. Images are in [0, 1], as `timm.data.resolve_model_data_config` has it. Without `pretrained` weights
are initial values. `pretrained_cfg_overlay={"file": FOLDER}` takes the weights from a folder.
"""

from functools import partial
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models import resolve_pretrained_cfg as resolve
from torch import nn

from randar_features.features.encoder import ImageEncoder, timm_config
from randar_features.hub import Model, load_model, untrained_model
from randar_features.hub.files import HubFile
from randar_features.hub.published import ALIASES, PUBLISHED
from randar_features.hub.registry import BUNDLED, find_source

NAMES = {name.replace("-", "_"): name for name in (*BUNDLED, *PUBLISHED, *ALIASES)}


def _config(variant: str, name: str) -> dict[str, Any]:
    """timm's configuration of a model, and where its weights are."""
    source = find_source(name)
    file = source.files["transformer"]
    place = {"hf_hub_id": file.repository} if isinstance(file, HubFile) else {"file": str(file.path.parent)}
    return timm_config(variant, source.config["image_size"]) | place


def _register(variant: str, name: str) -> None:
    def create(pretrained: bool = False, **options: Any) -> nn.Module:
        config = resolve(variant, options.get("pretrained_cfg"), options.get("pretrained_cfg_overlay"))
        own = default_cfgs[variant].default
        if (config.url, config.state_dict, config.hf_hub_id) != (None, None, own.hf_hub_id):
            raise ValueError(f"{variant} takes other weights from a folder: pretrained_cfg_overlay={{'file': FOLDER}}")
        if options.get("cache_dir") is not None:
            raise ValueError(f"cache_dir={options['cache_dir']!r}: the Hub's files are kept in HF_HOME, set that")
        weights = name if config.file in (None, own.file) else config.file
        model = load_model(weights) if pretrained else untrained_model(name)
        return build_model_with_cfg(
            partial(_encoder, model),
            variant,
            pretrained=False,  # they are loaded already
            feature_cfg={"out_indices": tuple(sorted(model.recommended_layers)), "feature_cls": "getter"},
            **options,
        )

    create.__name__ = variant
    register_model(create)


def _encoder(
    model: Model, *, in_chans: int = 3, img_size: Any = None, global_pool: str | None = None, **options: Any
) -> ImageEncoder:
    size = model.image_size
    if in_chans != 3 or img_size not in (None, size, (size, size), [size, size]):
        raise ValueError(
            f"{model.name} takes 3 channels of {size}x{size} pixels, got in_chans={in_chans}, img_size={img_size}"
        )
    encoder = ImageEncoder(model, **options)
    encoder.reset_classifier(encoder.num_classes, global_pool)
    return encoder


default_cfgs = generate_default_cfgs({variant: _config(variant, name) for variant, name in NAMES.items()})
for _variant, _name in NAMES.items():
    _register(_variant, _name)
