"""Vector-quantised tokenizer training: reconstruction, commitment, and a codebook that follows the latents."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as F

from randar_features.data.pixel_cache import PixelCache
from randar_features.files import write_json, written_whole
from randar_features.tokenizers import ImageTokenizer, LlamaGenTokenizer, TokenizerOutput
from randar_features.training.batches import batch_indices, step_generator
from randar_features.training.config import check_keys
from randar_features.training.ema import WeightAverage
from randar_features.training.loop import LoopConfig
from randar_features.training.lr_schedule import cosine_multiplier


@dataclass(frozen=True, kw_only=True)
class TokenizerTrainingConfig:
    """Sizes of the network (arguments of `LlamaGenTokenizer`) and the recipe."""

    network: dict[str, Any]
    image_size: int = 64
    total_steps: int = 4000
    batch_size: int = 32
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    chroma_weight: float = 1.0
    commitment: float = 0.25
    continuous_steps: int = 300  # steps before quantisation starts
    continuous_noise: float = 0.2  # standard deviation on each coordinate of the unit-length latents
    codebook_decay: float = 0.98
    revive_below: float = 0.1  # share of the mean use under which a code is replaced
    ema_decay: float = 0.998
    seed: int = 0
    evaluation_images: int = 512
    loop: LoopConfig = field(default_factory=LoopConfig)


class TokenizerTrainer:
    """Trains a `LlamaGenTokenizer` on cached pixels; see `training.loop.run`.

    Loss: L1 + L2 between image and reconstruction in [−1, 1], plus commitment (van den Oord et al.,
    arXiv 1711.00937, eq. 3). The first steps quantise nothing, but add noise. The codebook is not trained by
    gradient: each code follows the moving mean of the latents it won (their appendix A.1), and codes that
    hardly win any are moved onto present latents.
    """

    def __init__(self, config: TokenizerTrainingConfig, train: PixelCache, validation: PixelCache) -> None:
        self.config, self.train, self.validation = config, train, validation
        self.total_steps = config.total_steps
        check_keys(config.network, LlamaGenTokenizer, "network")
        torch.manual_seed(config.seed)
        self.model = LlamaGenTokenizer(**config.network).to(memory_format=torch.channels_last)
        self.model.quantize.embedding.weight.requires_grad_(False)
        self.codebook_counts = torch.zeros(self.model.vocab_size)
        self.optimizer = torch.optim.AdamW(
            [p for p in self.model.parameters() if p.requires_grad],
            lr=config.learning_rate,
            betas=(0.9, 0.95),
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.average = WeightAverage(self.model, config.ema_decay)

    def train_step(self, step: int) -> dict[str, float]:
        """One update on batch `step`."""
        config, generator = self.config, step_generator(self.config.seed, step)
        indices = batch_indices(step, batch_size=config.batch_size, size=len(self.train), seed=config.seed)
        images = random_mirror(self.train.images(indices), generator).contiguous(memory_format=torch.channels_last)
        self._set_learning_rate(step)
        output = self.model(images) if step >= config.continuous_steps else self._continuous(images, generator)
        difference = weigh_chroma(output.reconstruction - self.model.to_raw_range(images), config.chroma_weight)
        reconstruction = difference.abs().mean() + difference.square().mean()
        commitment = F.mse_loss(output.latents, output.quantized.detach())
        loss = reconstruction + config.commitment * commitment
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.gradient_clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if step >= config.continuous_steps - 1:
            self._move_codebook(output.latents.detach(), output.tokens, generator)
        self.average.update(self.model)
        return {
            "loss": loss.item(),
            "reconstruction": reconstruction.item(),
            "commitment": commitment.item(),
            "gradient_norm": norm.item(),
            "codes_in_batch": float(output.tokens.unique().numel()),
        }

    def _continuous(self, images: Tensor, generator: torch.Generator) -> TokenizerOutput:
        """A pass with noise in the place of quantisation: it makes the latents use the whole sphere."""
        latents, _, tokens = self.model.quantize(self.model.latents(images))
        noise = torch.randn(latents.shape, generator=generator) * self.config.continuous_noise
        noisy = F.normalize(latents + noise, dim=1)
        reconstruction = self.model.decoder(self.model.post_quant_conv(noisy))
        return TokenizerOutput(reconstruction, latents, latents, tokens)

    def _set_learning_rate(self, step: int) -> None:
        multiplier = cosine_multiplier(step + 1, warmup=self.config.warmup_steps, total=self.total_steps, floor=0.02)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * multiplier

    @torch.no_grad()
    def _move_codebook(self, latents: Tensor, tokens: Tensor, generator: torch.Generator) -> None:
        vectors = latents.permute(0, 2, 3, 1).flatten(0, 2)  # (B·N, C)
        winners = tokens.flatten()
        weight, decay = self.model.quantize.embedding.weight, self.config.codebook_decay
        counts = torch.bincount(winners, minlength=len(weight)).float()
        sums = torch.zeros_like(weight).index_add_(0, winners, vectors)
        means = weight * self.codebook_counts[:, None] * decay + sums * (1 - decay)
        self.codebook_counts.mul_(decay).add_(counts, alpha=1 - decay)
        used = self.codebook_counts > 0
        weight[used] = F.normalize(means[used], dim=-1)
        dead = (self.codebook_counts < self.config.revive_below * self.codebook_counts.mean()).nonzero().flatten()
        chosen = torch.randperm(len(vectors), generator=generator)[: len(dead)]
        weight[dead[: len(chosen)]] = vectors[chosen]
        self.codebook_counts[dead[: len(chosen)]] = self.codebook_counts.mean()

    def averaged(self) -> LlamaGenTokenizer:
        """A copy of the tokenizer with the averaged weights, in evaluation mode."""
        model = LlamaGenTokenizer(**self.config.network)
        model.load_state_dict(self.average.values)
        return model.eval()

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """`reconstruction_quality` of the averaged weights."""
        model = self.averaged()
        images = self.validation.images(torch.arange(min(self.config.evaluation_images, len(self.validation))))
        return {f"validation_{name}": value for name, value in reconstruction_quality(model, images).items()}

    def pictures(self) -> dict[str, Tensor]:
        """None yet."""
        return {}

    def rates(self, steps: int, seconds: float) -> dict[str, float]:
        """`images_per_second`."""
        return {"images_per_second": steps * self.config.batch_size / seconds}

    def settings(self) -> dict[str, Any]:
        """The configuration."""
        return asdict(self.config)

    def state_dict(self) -> dict[str, Any]:
        """Weights, their average, the optimizer's and the codebook's state: all that the next step depends on."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict(),
            "codebook_counts": self.codebook_counts,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.load_state_dict(state["average"])
        self.codebook_counts.copy_(state["codebook_counts"])

    def export(self, folder: Path) -> None:
        """Write the averaged tokenizer, as `load_tokenizer` reads it."""
        save_tokenizer(self.averaged(), self.config, folder)


def weigh_chroma(difference: Tensor, weight: float) -> Tensor:
    """RGB differences (B, 3, H, W) with their departure from grey multiplied by `weight`.

    Colours vary so much less than brightness that a codebook of few codes trained on plain differences
    spends nothing on telling green from brown.
    """
    grey = difference.mean(dim=1, keepdim=True)
    return grey + weight * (difference - grey)


def random_mirror(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image (B, 3, H, W) mirrored left to right with probability one half."""
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(mirrored[:, None, None, None], images.flip(3), images)


@torch.no_grad()
def reconstruction_quality(model: ImageTokenizer, images: Tensor, batch_size: int = 128) -> dict[str, float]:
    """`psnr` in dB (mean over images), `mse` in [0, 1], codes used (share), entropy of the tokens in nats."""
    errors, tokens = [], []
    for batch in images.split(batch_size):
        codes = model.encode(batch)
        errors.append((model.decode(codes) - batch).square().mean((1, 2, 3)))
        tokens.append(codes.flatten())
    error = torch.cat(errors)
    share = torch.bincount(torch.cat(tokens), minlength=model.vocab_size).float()
    share /= share.sum()
    return {
        "psnr": (-10 * error.log10()).mean().item(),
        "mse": error.mean().item(),
        "usage": (share > 0).float().mean().item(),
        "entropy": torch.special.entr(share).sum().item(),
    }


def save_tokenizer(model: LlamaGenTokenizer, config: TokenizerTrainingConfig, folder: Path) -> None:
    """Write `tokenizer.safetensors` (float16) and `config.json`."""
    # The usage history is the published training's; ours has none worth keeping.
    weights = {n: v.half().contiguous() for n, v in model.state_dict().items() if n != "quantize.codebook_used"}
    with written_whole(folder / "tokenizer.safetensors") as file:
        file.write(save(weights))
    about = {
        "tokenizer": {"type": "llamagen", **config.network},
        "image_size": config.image_size,
        "tokenizer_training": asdict(config),
    }
    write_json(folder / "config.json", about)
