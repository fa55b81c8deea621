"""Vector-quantised tokenizer training: reconstruction, commitment, and a codebook that follows the latents."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from randar_features.baselines import load_network
from randar_features.data.ahead import sent
from randar_features.data.pixels import PixelCache, PixelSource
from randar_features.options.types import typed
from randar_features.precision import autocast, fastest_dtype
from randar_features.tokenizers import TokenizerOutput
from randar_features.training.auxiliary.heads import Alignment, alignment_target
from randar_features.training.batches import batch_indices, spread, step_generator
from randar_features.training.distributed import DTYPES, format_name, make_accelerator, micro_batches
from randar_features.training.loop import Trainer
from randar_features.training.optimizer import WeightAverage, rate_multiplier
from randar_features.training.tokenizer.discriminator import Adversary, PatchDiscriminator
from randar_features.training.tokenizer.image_quality import quality_figures, quality_sums
from randar_features.training.tokenizer.moving_codebook import MovingCodebook
from randar_features.training.tokenizer.perceptual import NetworkMaps, PerceptualDistance, lpips
from randar_features.training.tokenizer.recipe import (
    Learner,
    TokenizerTrainingConfig,
    Trained,
    build_tokenizer,
    empty_tokenizer,
    recipe_without_folders,
    save_tokenizer,
)

REMOVED_MEAN = 0.5  # of the teacher's maps, as in the alignment of the generator
SHOWN = 16  # images in a picture of reconstructions, and as many reconstructions


Pixels = PixelCache | PixelSource


class TokenizerTrainer(Trainer):
    """Trains a `LlamaGenTokenizer`, or the decoder of a `NetworkTokenizer`, on cached pixels; see `training.loop.run`.

    Loss: L1 + L2 between image and reconstruction in [−1, 1], plus commitment (van den Oord et al.,
    arXiv 1711.00937, eq. 3). Options add a perceptual and an adversarial term (Esser et al., arXiv 2012.09841) and an
    alignment of the codes to a teacher's map. The first steps quantise nothing, but add noise. The codebook is not
    trained by gradient, see `MovingCodebook`.

    Several processes each take an equal share of the batch and average their gradients, which gives what one
    process gives except for rounding; only the discriminator's batch normalisation sees each share alone.
    """

    def __init__(self, config: TokenizerTrainingConfig, train: Pixels, validation: Pixels) -> None:
        self.config, self.train, self.validation = config, train, validation
        self.next_step = -1
        self.batches: Iterator[Tensor] = iter(())
        self.accelerator = make_accelerator()
        self.device = self.accelerator.device
        self.dtype = DTYPES[config.mixed_precision] if config.mixed_precision else fastest_dtype(self.device)
        processes, process = self.accelerator.num_processes, self.accelerator.process_index
        [(_, self.rows)] = micro_batches(config.batch_size, None, processes, process)
        torch.manual_seed(config.seed)
        with torch.device("cpu"):
            model = build_tokenizer(config)
        self.model = model.to(self.device).to(memory_format=torch.channels_last)
        self.teacher = NetworkMaps(load_network(config.teacher, self.device)) if config.teacher else None
        self.alignment = self._build_alignment()
        trained = self.model if self.alignment is None else nn.ModuleList([self.model, self.alignment])
        self.learner = Learner(trained, config, self.accelerator, config.learning_rate)
        self.average = WeightAverage(self.model, config.ema_decay)
        self.codebook = MovingCodebook(
            self.model.quantize.embedding.weight,
            decay=config.codebook_decay,
            revive_below=config.revive_below,
            accelerator=self.accelerator,
        )
        self.perceptual = self._build_perceptual()
        self.adversary = self._build_adversary()

    def _build_perceptual(self) -> PerceptualDistance | None:
        config = self.config
        if not config.perceptual_weight:
            return None
        distance = (
            PerceptualDistance(self.teacher) if self.teacher else lpips(config.perceptual_vgg, config.perceptual_linear)
        )
        return distance.to(self.device)

    @torch.no_grad()
    def _build_alignment(self) -> Alignment | None:
        if self.teacher is None or not self.config.alignment_weight:
            return None
        size = self.config.image_size
        channels = self.teacher(torch.zeros(1, 3, size, size, device=self.device))[-1].shape[1]
        grid = size // self.model.downsampling
        with torch.device("cpu"):
            alignment = Alignment(self.model.code_dim, channels, grid, ["codes"])
        return alignment.to(self.device)

    def _build_adversary(self) -> Adversary | None:
        config = self.config
        if not config.adversarial_weight:
            return None
        generator = torch.Generator().manual_seed(config.seed)
        sizes = typed(PatchDiscriminator, config.discriminator, "discriminator")
        with torch.device("cpu"):
            discriminator = PatchDiscriminator(**(sizes | {"generator": generator}))
        discriminator = discriminator.to(self.device)
        rate = config.discriminator_learning_rate or config.learning_rate
        learner = Learner(discriminator, config, self.accelerator, rate)
        return Adversary(learner, weight=config.adversarial_weight, adaptive=config.adversarial_adaptive)

    def train_step(self, step: int) -> dict[str, float]:
        """One update on batch `step`."""
        config, generator = self.config, step_generator(self.config.seed, step)
        images = self._images(step, generator)
        multiplier = rate_multiplier(
            step + 1, warmup=config.warmup_steps, total=config.total_steps, floor=config.final_multiplier
        )
        with autocast(self.device, self.dtype):
            output = self._forward(images, step, generator)
            losses = self._losses(output, images, step)
        norm = self.learner.update(losses["loss"], multiplier)
        figures = self._figures(losses, norm, output)
        if self.adversary is not None and "adversarial" in losses:
            with autocast(self.device, self.dtype):
                real, fake = self.model.to_raw_range(images), output.reconstruction.detach()
                figures |= self._reduced(self.adversary.learn(real, fake, multiplier))
        if config.train == "all" and step >= config.continuous_steps - 1:
            self.codebook.move(output.latents.detach(), output.tokens, generator)
            figures |= self.codebook.usage()
        self.average.update(self.model)
        return figures

    def _images(self, step: int, generator: torch.Generator) -> Tensor:
        """This process's part of the step's batch, some of it mirrored."""
        if step != self.next_step:
            steps = range(step, self.config.total_steps)
            self.batches = self.train.stream(map(self._indices, steps))
        self.next_step = step + 1
        images = sent(next(self.batches), self.device)
        mirrored = torch.rand(self.config.batch_size, generator=generator, device="cpu") < 0.5
        return mirror(images, mirrored[self.rows].to(self.device)).contiguous(memory_format=torch.channels_last)

    def _indices(self, step: int) -> Tensor:
        size, seed = self.config.batch_size, self.config.seed
        return batch_indices(step, batch_size=size, size=len(self.train), seed=seed)[self.rows]

    def _forward(self, images: Tensor, step: int, generator: torch.Generator) -> TokenizerOutput:
        if self.config.train == "decoder":
            with torch.no_grad():
                latents, quantized, tokens = self.model.quantize(self.model.latents(images))
            reconstruction = self.model.decoder(self.model.post_quant_conv(quantized)).float()
            return TokenizerOutput(reconstruction, latents, quantized, tokens)
        return self.model(images) if step >= self.config.continuous_steps else self._continuous(images, generator)

    def _continuous(self, images: Tensor, generator: torch.Generator) -> TokenizerOutput:
        """A pass with noise in the place of quantisation: it makes the latents use the whole sphere."""
        latents, _, tokens = self.model.quantize(self.model.latents(images))
        noise = torch.randn((self.config.batch_size, *latents.shape[1:]), generator=generator, device="cpu")
        noisy = F.normalize(latents + noise[self.rows].to(self.device) * self.config.continuous_noise, dim=1)
        reconstruction = self.model.decoder(self.model.post_quant_conv(noisy)).float()
        return TokenizerOutput(reconstruction, latents, latents, tokens)

    def _losses(self, output: TokenizerOutput, images: Tensor, step: int) -> dict[str, Tensor]:
        """The terms of one step by name: `loss` is minimised, `reconstruction` is weighted."""
        config, target = self.config, self.model.to_raw_range(images)
        difference = weigh_chroma(output.reconstruction - target, config.chroma_weight)
        reconstruction = config.l1_weight * difference.abs().mean() + config.l2_weight * difference.square().mean()
        terms = {"reconstruction": reconstruction}
        terms["commitment"] = F.mse_loss(output.latents, output.quantized.detach())
        total = likeness = reconstruction
        with torch.no_grad():
            shown = None if self.teacher is None else self.teacher(target)
        if self.perceptual is not None:
            seen = self.perceptual.maps(target) if shown is None else shown
            terms["perceptual"] = self.perceptual.between(self.perceptual.maps(output.reconstruction), seen).mean()
            total = likeness = reconstruction + config.perceptual_weight * terms["perceptual"]
        if self.alignment is not None and shown is not None:
            codes = {"codes": output.quantized.flatten(2).transpose(1, 2)}
            maps = alignment_target(shown[-1].permute(0, 2, 3, 1), output.quantized.shape[-1], REMOVED_MEAN)
            terms["alignment"] = self.alignment(codes, maps)
            total = total + config.alignment_weight * terms["alignment"]
        if config.train == "all":
            total = total + config.commitment * terms["commitment"]
        if self.adversary is not None and step >= config.adversarial_start:
            last_layer = self.model.decoder.conv_out.weight
            adversarial, weight = self.adversary.term(output.reconstruction, likeness, last_layer)
            terms |= {"adversarial": adversarial, "adversarial_weight": weight}
            total = total + weight * adversarial
        return {"loss": total, **terms}

    def _figures(self, losses: dict[str, Tensor], norm: Tensor, output: TokenizerOutput) -> dict[str, float]:
        codes = float(self.accelerator.gather(output.tokens).unique().numel())
        return self._reduced(losses) | {"gradient_norm": norm.item(), "codes_in_batch": codes}

    def _reduced(self, terms: dict[str, Tensor]) -> dict[str, float]:
        """Means over the processes, with one wait for the device."""
        stacked = torch.stack([value.detach().float() for value in terms.values()])
        return dict(zip(terms, self.accelerator.reduce(stacked, "mean").tolist(), strict=True))

    def averaged(self) -> Trained:
        """A copy of the tokenizer with the averaged weights, in evaluation mode."""
        model = empty_tokenizer(self.config)
        model.load_state_dict(self.average.values)
        return model.to(self.device).eval()

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """`reconstruction_quality` of the averaged weights, on validation images that are evenly spread.

        Each process looks at its share.
        """
        model = self.averaged()
        picked = spread(len(self.validation), self.config.evaluation_images)
        mine = picked[self.accelerator.process_index :: self.accelerator.num_processes]
        sums = torch.zeros(4 + model.vocab_size, dtype=torch.float64, device=self.device)
        for images in self.validation.stream(mine.split(64)):
            sums += quality_sums(model, images.to(self.device))
        figures = quality_figures(self.accelerator.reduce(sums, "sum").cpu())
        return {f"validation_{name}": value for name, value in figures.items()}

    @torch.no_grad()
    def pictures(self) -> dict[str, Tensor]:
        """`reconstructions`: validation images in rows of eight, each row above that of its reconstructions."""
        images = self.validation.images(spread(len(self.validation), SHOWN)).to(self.device)
        model = self.averaged()
        rows = zip(images.split(8), model.decode(model.encode(images)).split(8), strict=True)
        return {"reconstructions": torch.cat([row for pair in rows for row in pair])}

    def settings(self) -> dict[str, Any]:
        """The configuration, and which images are trained on."""
        data = {"images": len(self.train), "content": self.train.content}
        return recipe_without_folders(self.config) | {"mixed_precision": format_name(self.dtype), "data": data}

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on: weights, their average, the states of optimizers and codebook."""
        state = {
            "tokenizer": self.learner.state_dict(),
            "average": self.average.state_dict(),
            "codebook_counts": self.codebook.counts,
        }
        return state | ({"discriminator": self.adversary.learner.state_dict()} if self.adversary else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a saved state."""
        self.learner.load_state_dict(state["tokenizer"])
        self.average.load_state_dict(state["average"])
        self.codebook.counts.copy_(state["codebook_counts"])
        if self.adversary is not None:
            self.adversary.learner.load_state_dict(state["discriminator"])

    def export(self, folder: Path) -> None:
        """Write the averaged tokenizer, as `load_tokenizer` reads it."""
        if self.accelerator.is_main_process:
            weights = {name: value.cpu() for name, value in self.average.values.items()}
            save_tokenizer(weights, self.config, folder, self.dtype)


def weigh_chroma(difference: Tensor, weight: float | Tensor) -> Tensor:
    """RGB differences (B, 3, H, W) with their departure from grey multiplied by `weight`.

    Colours vary so much less than brightness that a codebook of few codes trained on plain differences
    spends nothing on telling green from brown.
    """
    grey = difference.mean(dim=1, keepdim=True)
    return grey + weight * (difference - grey)


def mirror(images: Tensor, mirrored: Tensor) -> Tensor:
    """Images (B, 3, H, W) with those mirrored left to right for which `mirrored` (B,) says so."""
    return torch.where(mirrored[:, None, None, None], images.flip(3), images)
