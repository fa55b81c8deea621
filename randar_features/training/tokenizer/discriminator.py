"""The adversarial term of tokenizer training: a discriminator of patches, its loss, and the term's weight."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from randar_features.training.tokenizer.recipe import Learner

# Of the discriminator's first weights; batch normalisation scales around 1 (Isola et al. 2017, section 6.2).
INITIAL_STD = 0.02
LARGEST_WEIGHT = 1e4


class PatchDiscriminator(nn.Module):
    """PatchGAN of pix2pix (Isola et al. 2017, arXiv:1611.07004), as VQGAN and LlamaGen use it.

    Args:
        channels: width after the first convolution; doubled at each layer, up to eight times.
        layers: halvings of the image. Each logit then sees 70×70 pixels for 3 layers.
        generator: of the first weights.
    """

    def __init__(self, *, channels: int = 64, layers: int = 3, generator: torch.Generator | None = None) -> None:
        super().__init__()
        widths = [channels * min(2**index, 8) for index in range(layers + 1)]
        steps: list[nn.Module] = [nn.Conv2d(3, channels, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for index, (before, after) in enumerate(pairwise(widths), start=1):
            stride = 2 if index < layers else 1
            steps += [
                nn.Conv2d(before, after, 4, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.LeakyReLU(0.2),
            ]
        self.main = nn.Sequential(*steps, nn.Conv2d(widths[-1], 1, 4, padding=1))
        self._initialize(generator)

    @torch.no_grad()
    def _initialize(self, generator: torch.Generator | None) -> None:
        for module in self.main:
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, INITIAL_STD, generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, INITIAL_STD, generator=generator)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [−1, 1] to the logits (B, 1, h, w) of their patches: high where they look real."""
        return self.main(images)


def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Loss of a discriminator with logits `real` and `fake`: mean of max(0, 1 − r) and max(0, 1 + f), halved.

    Lim and Ye 2017, arXiv:1705.02894, eq. 11.
    """
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor) -> Tensor:
    """‖∇ reconstruction‖ / (‖∇ adversarial‖ + 1e-4), the gradients by the decoder's last weights; at most 1e4.

    With it both terms pull equally hard at the image (Esser et al. 2021, arXiv:2012.09841, eq. 7). It carries no
    gradient.
    """
    norms = [
        torch.autograd.grad(loss, last_layer, retain_graph=True)[0].norm() for loss in (reconstruction, adversarial)
    ]
    return (norms[0] / (norms[1] + 1e-4)).clamp(0, LARGEST_WEIGHT).detach()


class Adversary:
    """A discriminator that learns beside a tokenizer, and the term that it adds to the tokenizer's loss.

    Args:
        learner: trains the discriminator.
        weight: of the term.
        adaptive: times `adaptive_weight`.
    """

    def __init__(self, learner: Learner, *, weight: float, adaptive: bool) -> None:
        self.learner, self.weight, self.adaptive = learner, weight, adaptive

    def term(self, reconstruction: Tensor, likeness: Tensor, last_layer: Tensor) -> tuple[Tensor, Tensor]:
        """Minus the mean logit of reconstructions (B, 3, H, W) in [−1, 1], and that term's weight.

        `likeness` is the tokenizer's other loss, `last_layer` the decoder's last weight.
        """
        adversarial = -self.learner.module.requires_grad_(False)(reconstruction).float().mean()
        weight = torch.tensor(self.weight, device=adversarial.device)
        if self.adaptive:
            ratio = adaptive_weight(likeness, adversarial, last_layer)
            weight = weight * self.learner.accelerator.reduce(ratio, "mean")
        return adversarial, weight

    def learn(self, real: Tensor, fake: Tensor, multiplier: float) -> dict[str, Tensor]:
        """One step of the discriminator on images and reconstructions without gradients; its figures."""
        discriminator = self.learner.module.requires_grad_(True)
        real_logits, fake_logits = discriminator(real).float(), discriminator(fake).float()
        loss = hinge_loss(real_logits, fake_logits)
        self.learner.update(loss, multiplier)
        return {"discriminator_loss": loss, "logits_real": real_logits.mean(), "logits_fake": fake_logits.mean()}
