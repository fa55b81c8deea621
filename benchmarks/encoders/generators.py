"""RandAR, LlamaGen, PAR and ARPG as encoders, and their tokenizers alone."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.encoders.base import Encoder
from randar_features import Model, load_model
from randar_features.baselines import RANDOM
from randar_features.features import encode, model_specs
from randar_features.hub import load_tokenizer
from randar_features.hub.weights import weights_hash

UNTRAINED_SEED = 0


class GeneratorEncoder(Encoder):
    """Every layer of a generator, in every context and at every kind of token. The class is the null class."""

    def __init__(
        self,
        model: str | Model,
        *,
        contexts: Sequence[str] | None = None,
        reads: Sequence[str] | None = None,
        orders: int | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        self.model = load_model(model, device=device)
        self.orders = orders
        transformer = self.model.transformer
        specs = model_specs(
            self.model,
            layers="all",
            context=transformer.reads["image"] if contexts is None else contexts,
            read=list(transformer.reads) if reads is None else reads,
            orders=orders,
        )
        super().__init__(
            name=self.model.name,
            image_size=self.model.image_size,
            weights=self.model.weights_hash,
            outputs={str(spec): spec.details() for spec in specs},
            device=self.model.device,
        )

    def _encode(self, images: Tensor, outputs: list[str]) -> Mapping[str, Tensor]:
        maps = encode(self.model, images, outputs)
        return {str(spec): values for spec, values in maps.items()}


def untrained(model: Model) -> Model:
    """The model with a transformer of initial values (seed 0) on the same tokens: what training is worth."""
    transformer = copy.deepcopy(model.transformer)
    transformer.initialize(torch.Generator().manual_seed(UNTRAINED_SEED))
    weights = f"random (seed {UNTRAINED_SEED}) over tokens of {model.weights_hash}"
    return replace(model, name=f"{model.name}{RANDOM}", transformer=transformer, weights_hash=weights)


class TokenizerEncoder(Encoder):
    """What a tokenizer alone makes of an image.

    "codes": the vectors of its codes on their grid, and how often it uses each. "latents": what its network gives
    in front of the codebook.
    """

    def __init__(self, name: str, model: str, device: torch.device | str | None = None) -> None:
        self.tokenizer, image_size = load_tokenizer(model, device=device)
        outputs = ("latents",) if name.startswith("latents") else ("vectors", "histogram")
        super().__init__(
            name=name,
            image_size=image_size,
            weights=weights_hash(self.tokenizer),
            outputs={output: {} for output in outputs},
            device=next(self.tokenizer.parameters()).device,
        )

    def _encode(self, images: Tensor, outputs: list[str]) -> Mapping[str, Tensor]:
        latents = self.tokenizer.latents(images)
        if "latents" in self.outputs:
            return {"latents": latents.permute(0, 2, 3, 1)}
        tokens = self.tokenizer.quantize_latents(latents)
        counts = torch.zeros(len(tokens), self.tokenizer.vocab_size, device=tokens.device)
        counts.scatter_add_(1, tokens, torch.ones(tokens.shape, device=tokens.device))
        return {
            "vectors": self.tokenizer.codes(tokens).unflatten(1, latents.shape[2:]),
            "histogram": (counts / tokens.shape[1])[:, None, None],
        }
