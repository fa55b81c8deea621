"""The configuration of a tokenizer's training: the network, the recipe, the intervals."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from randar_features.hub.registry import FOLDER_FILES
from randar_features.hub.weights import file_hash, load_weights
from randar_features.options.types import Count, Decay, Natural, NonNegative, Positive, Share, check_ranges, typed
from randar_features.store.files import read_object
from randar_features.tokenizers import LlamaGenTokenizer, NetworkTokenizer
from randar_features.tokenizers.folder import NOT_ENCODING, write_tokenizer
from randar_features.training.distributed import format_name
from randar_features.training.loop import LoopConfig
from randar_features.training.optimizer import load_moments


@dataclass(frozen=True, kw_only=True)
class TokenizerTrainingConfig:
    """Sizes of the network, the recipe, and the intervals of the loop.

    Attributes:
        network: arguments of `LlamaGenTokenizer`; may be left out with `initial`.
        initial: folder of a tokenizer to start from; none: fresh weights.
        train: all: every part; decoder: only the decoder of a finished tokenizer, for better reconstructions. Its
            encoder, its codebook and all tokens stay as they are.
        image_size: side of the images in pixels.
        total_steps: training steps until the run is done.
        batch_size: images in a step, over all processes.
        mixed_precision: "bf16" or "no"; none: bf16 if the hardware has bfloat16 products.
        learning_rate: highest learning rate, after the warm-up.
        final_multiplier: share of the highest learning rate at the end.
        warmup_steps: steps in which the learning rate rises from 0.
        adam_betas: decay of AdamW's means of the gradient and of its square.
        weight_decay: weight decay of AdamW.
        gradient_clip: largest norm of the gradient; larger gradients are scaled down to it.
        l1_weight: weight of the mean absolute difference of pixels, values in [−1, 1].
        l2_weight: weight of the mean squared difference of pixels, values in [−1, 1].
        chroma_weight: weight of colour relative to brightness in these two differences.
        commitment: weight of the loss that pulls latents to their codes.
        perceptual_weight: weight of the perceptual loss, by the maps of `teacher`, or, without a teacher, by LPIPS's
            VGG-16.
        perceptual_vgg: file of the weights of torchvision's VGG-16; none: the one in the cache of torch.hub.
        perceptual_linear: file of LPIPS's channel weights; none: that of the installed package lpips, or equal weights.
        teacher: a frozen network and its input size, such as `efficientnet-lite0@128`; any of the baselines.
        alignment_weight: weight of the alignment of the codes to the teacher's last map, see `auxiliary.alignment`. It
            makes codes describe the content of an image as well (as in VQ-KD, Peng et al., arXiv 2208.06366).
        adversarial_weight: weight of the adversarial loss; 0: no discriminator.
        adversarial_start: first step with the adversarial loss and with training of the discriminator.
        adversarial_adaptive: multiply the adversarial weight by the ratio of the gradients, as in VQGAN.
        discriminator: arguments of `PatchDiscriminator`.
        discriminator_learning_rate: highest learning rate of the discriminator; none: that of the tokenizer.
        continuous_steps: number of steps before quantisation starts.
        continuous_noise: standard deviation of the noise on each coordinate of the unit-length latents, before
            quantisation starts.
        codebook_decay: decay of the moving means that the codes follow.
        revive_below: replace a code if its use is below this share of the mean use.
        ema_decay: decay of the average of the weights, which is evaluated and exported.
        seed: seed of all random choices.
        evaluation_images: number of validation images in an evaluation.
    """

    network: dict[str, Any] = field(default_factory=dict)
    initial: str | None = None
    train: Literal["all", "decoder"] = "all"
    image_size: Count = 64
    total_steps: Count = 4000
    batch_size: Count = 32
    mixed_precision: Literal["bf16", "no"] | None = "no"
    learning_rate: Positive = 1e-3
    final_multiplier: Share = 0.02
    warmup_steps: Natural = 100
    adam_betas: list[Decay] = field(default_factory=lambda: [0.9, 0.95])
    weight_decay: NonNegative = 0.01
    gradient_clip: Positive = 1.0
    l1_weight: NonNegative = 1.0
    l2_weight: NonNegative = 1.0
    chroma_weight: NonNegative = 1.0
    commitment: NonNegative = 0.25
    perceptual_weight: NonNegative = 0.0
    perceptual_vgg: str | None = None
    perceptual_linear: str | None = None
    teacher: str | None = None
    alignment_weight: NonNegative = 0.0
    adversarial_weight: NonNegative = 0.0
    adversarial_start: Natural = 0
    adversarial_adaptive: bool = True
    discriminator: dict[str, Any] = field(default_factory=dict)
    discriminator_learning_rate: Positive | None = None
    continuous_steps: Natural = 300
    continuous_noise: NonNegative = 0.2
    codebook_decay: Decay = 0.98
    revive_below: NonNegative = 0.1
    ema_decay: Decay = 0.998
    seed: int = 0
    evaluation_images: Count = 512
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        check_ranges(self)
        if len(self.adam_betas) != 2:
            raise ValueError(f"adam_betas = {self.adam_betas}, expected two numbers, as [0.9, 0.95]")
        if self.alignment_weight and not self.teacher:
            raise ValueError(f"alignment_weight = {self.alignment_weight} needs a teacher, as efficientnet-lite0@128")
        if self.alignment_weight and self.train == "decoder":
            raise ValueError("train=decoder keeps the codes as they are, so alignment_weight must be 0")


Trained = LlamaGenTokenizer | NetworkTokenizer
TRAINED: dict[str, type[Trained]] = {"llamagen": LlamaGenTokenizer, "network": NetworkTokenizer}


def build_tokenizer(config: TokenizerTrainingConfig) -> Trained:
    """The network with its first weights, in training mode; global random numbers are drawn for new ones.

    Raises:
        FileNotFoundError: `initial` is no tokenizer's folder.
        ValueError: an option of the network is unknown or of another type, or the weights of `initial` are of another
            network; or "decoder" is to be trained, with an encoder of first weights, or anything else of a tokenizer
            whose encoder is a frozen network.
    """
    model = empty_tokenizer(config)
    if isinstance(model, NetworkTokenizer) and config.train != "decoder":
        raise ValueError(f"train = {config.train!r}: of a tokenizer on a frozen network only train=decoder is possible")
    if config.initial is not None:
        load_weights(model, Path(config.initial) / FOLDER_FILES["tokenizer"])
    elif config.train == "decoder":
        raise ValueError("train=decoder keeps encoder and codebook as they are: name a trained one, as initial=FOLDER")
    model.requires_grad_(True).train()
    if config.train == "decoder":
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith(NOT_ENCODING))
    model.quantize.embedding.weight.requires_grad_(False)
    return model


def empty_tokenizer(config: TokenizerTrainingConfig) -> Trained:
    """A network of the recipe's sizes with initial values; ValueError for an unknown option."""
    sizes = network_sizes(config)
    kind = TRAINED[sizes.pop("type")]
    return kind(**typed(kind, sizes, "network"))


def network_sizes(config: TokenizerTrainingConfig) -> dict[str, Any]:
    """`type` and the arguments of that tokenizer: `network`, or where it is left out those of `initial`."""
    if config.network or config.initial is None:
        return {"type": "llamagen"} | config.network
    path = Path(config.initial) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"initial={config.initial}: {path} is missing, expected a tokenizer's folder")
    about = dict(read_object(path).get("tokenizer", {}))
    if (kind := about.get("type")) not in TRAINED:
        raise ValueError(f"initial={config.initial}: the tokenizer's type is {kind!r}, expected {' or '.join(TRAINED)}")
    return about


def save_tokenizer(
    weights: Mapping[str, Tensor], config: TokenizerTrainingConfig, folder: Path, dtype: torch.dtype
) -> None:
    """Write `tokenizer.safetensors` and `config.json` as `load_tokenizer` reads them, the weights in float16.

    The configuration tells the number format that was used, `dtype`.

    Where only the decoder was trained, other weights that float16 would change stay as they are: the tokens of
    the tokenizer, and its hash, are those that it started with. What `initial` was trained with is kept under
    "initial_training".
    """
    exact = config.train == "decoder"
    kept = half_but_tokens(weights) if exact else {name: value.half() for name, value in weights.items()}
    about = {
        "tokenizer": network_sizes(config),
        "image_size": config.image_size,
        "tokenizer_training": recipe_without_folders(config) | {"mixed_precision": format_name(dtype)},
    }
    if config.initial is not None:
        about["initial_training"] = read_object(Path(config.initial) / "config.json").get("tokenizer_training")
    write_tokenizer(folder, kept, about)


def half_but_tokens(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights in float16, but as they are where that would change them and with them tokens."""
    return {
        name: value.half() if name.startswith(NOT_ENCODING) or value.half().to(value.dtype).equal(value) else value
        for name, value in weights.items()
    }


def recipe_without_folders(config: TokenizerTrainingConfig) -> dict[str, Any]:
    """All options, but files by what they hold, 16 hexadecimal digits, not by where they lay on one machine."""
    files = {name: getattr(config, name) for name in ("initial", "perceptual_vgg", "perceptual_linear")}
    if config.initial is not None:
        files["initial"] = Path(config.initial) / FOLDER_FILES["tokenizer"]
    hashes = {name: path and file_hash(Path(path))[:16] for name, path in files.items()}
    if config.teacher:
        network, given, file = config.teacher.partition("=")
        hashes["teacher"] = f"{network}={file_hash(Path(file))[:16]}" if given else network
    return asdict(config) | hashes


class Learner:
    """Updates a module by a loss, with the recipe's AdamW: gradients are averaged over the processes, and clipped.

    Args:
        module: its parameters that take gradients are trained.
        config: the recipe.
        accelerator: this process among those that train together.
        learning_rate: the peak.
    """

    def __init__(
        self, module: nn.Module, config: TokenizerTrainingConfig, accelerator: Accelerator, learning_rate: float
    ) -> None:
        self.module, self.accelerator, self.learning_rate = module, accelerator, learning_rate
        self.gradient_clip = config.gradient_clip
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        betas = config.adam_betas[0], config.adam_betas[1]
        self.optimizer = torch.optim.AdamW(
            trained, lr=learning_rate, betas=betas, weight_decay=config.weight_decay, fused=True
        )

    def update(self, loss: Tensor, multiplier: float) -> Tensor:
        """One step down `loss` at `multiplier` times the peak learning rate; the gradient's norm before clipping."""
        loss.backward()
        parameters = [parameter for parameter in self.module.parameters() if parameter.grad is not None]
        if self.accelerator.num_processes > 1:
            for parameter in parameters:
                parameter.grad = self.accelerator.reduce(parameter.grad, "mean")
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.gradient_clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * multiplier
        self.optimizer.step()
        self.optimizer.zero_grad()
        return norm

    def state_dict(self) -> dict[str, Any]:
        """Weights and moments."""
        return {"weights": self.module.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state."""
        self.module.load_state_dict(state["weights"])
        load_moments(self.optimizer, state["optimizer"])
