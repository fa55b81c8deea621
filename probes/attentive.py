"""A probe that learns where to look: attentive pooling by one learned query or several, and a linear head."""

import copy
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from probes.classifier import TunedProbe, warm_up_cosine
from probes.grids import RATE_LIMITS, end_warnings, settle
from probes.inputs import check_counts, class_indices, sorted_grid
from probes.linear import BatchNormalizer, shuffled_batches
from probes.metrics import accuracy
from probes.rows import Features, Rows, TokenRows, as_rows
from probes.splits import TuningSplit

ATTENTIVE_LEARNING_RATES = (1e-4, 3e-4, 1e-3, 3e-3)


class AttentiveHead(nn.Module):
    """AIM's `AttentionPoolingClassifier` for one learning rate: key, value and output projections, and a query.

    With a single query, the keys W x need not be formed: q · (W x) = (Wᵀ q) · x, so that each head's query goes
    through its part of W once, and values are projected after they are averaged. The same function, without its
    two products of every token with a D×D matrix.
    """

    def __init__(self, width: int, num_heads: int, num_classes: int, generator: torch.Generator) -> None:
        """Weights as `nn.Linear`'s, uniform within ±1 / √D, the query N(0, 0.02²), as in AIM; no biases."""
        super().__init__()
        bound = 1 / math.sqrt(width)

        def uniform(*shape: int) -> nn.Parameter:
            return nn.Parameter(
                torch.empty(shape, dtype=torch.float32, device="cpu").uniform_(-bound, bound, generator=generator)
            )

        self.key, self.value = uniform(width, width), uniform(width, width)
        self.query = nn.Parameter(
            torch.empty(width, dtype=torch.float32, device="cpu").normal_(0, 0.02, generator=generator)
        )
        self.output = uniform(num_classes, width)
        self.num_heads = num_heads

    def queries(self) -> Tensor:
        """What each head looks for, in terms of the features: (H, D)."""
        width = len(self.query)
        query = self.query.view(self.num_heads, 1, -1) / math.sqrt(width // self.num_heads)
        return (query @ self.key.view(self.num_heads, -1, width)).squeeze(1)

    def classify(self, pooled: Tensor) -> Tensor:
        """Features averaged by each head's attention (B, H, D) → logits (B, C)."""
        value = self.value.view(self.num_heads, -1, self.value.shape[1])
        return torch.einsum("bhd,hed->bhe", pooled, value).flatten(1) @ self.output.T


class EfficientHead(AttentiveHead):
    """Efficient probing's head for one learning rate: several queries, which see the features themselves as keys.

    Query m averages the features by its own attention, softmax(q_m · x / √D), and gives its share of the projected
    values, D / M numbers (arXiv 2506.10178).
    """

    def __init__(self, width: int, num_queries: int, num_classes: int, generator: torch.Generator) -> None:
        """Weights as AIM's, and queries (M, D) from N(0, 0.02²) in place of one query and the keys."""
        super().__init__(width, num_queries, num_classes, generator)
        del self.key
        self.query = nn.Parameter(
            torch.empty(num_queries, width, dtype=torch.float32, device="cpu").normal_(0, 0.02, generator=generator)
        )

    def queries(self) -> Tensor:
        """What each query looks for: (M, D)."""
        return self.query / math.sqrt(self.query.shape[1])


class AttentiveProbe(TunedProbe):
    """Attentive probe after AIM, at several learning rates at once, the best one chosen on validation.

    Features are the tokens of an image, (n, T, D), maps (n, G, G, D), or the maps of several layers (n, L, G, G, D),
    and the attention goes over all of them. `BatchNorm1d(affine=False, eps=1e-6)` over all tokens of a layer, then
    cross-attention of one learned query with `num_heads` heads, then a linear layer, all without biases (AIM, arXiv
    2401.08541, and its code). `num_queries` chooses efficient probing instead, see `EfficientHead`.

    Trained as CAPI trains its attentive heads: AdamW, β (0.9, 0.95), weight decay, a linear warm-up over a tenth of the
    iterations, then a cosine to 0; CAPI takes 12 500 iterations, here `epochs` and `batch_size` say. Learning rates are
    not scaled by the batch; where the lowest or the highest is best, heads of rates beyond it are trained on the same
    batches.

    After `fit`: `learning_rate` and `validation_accuracy` of the chosen head, `validation_accuracies` by learning
    rate, `classes`, and `head`.
    """

    learning_rate: float
    validation_accuracies: dict[float, float]
    head: AttentiveHead

    def __init__(
        self,
        *,
        num_heads: int = 12,
        num_queries: int | None = None,
        learning_rates: Sequence[float] = ATTENTIVE_LEARNING_RATES,
        weight_decay: float = 5e-4,
        epochs: int = 10,
        batch_size: int = 256,
        buffer_rows: int | None = None,
        validation_fraction: float = 0.1,
        seed: int = 0,
        device: torch.device | str | None = None,
    ) -> None:
        """`buffer_rows` and `device` as in `JointLinearProbe`."""
        check_counts(num_heads=num_heads, num_queries=1 if num_queries is None else num_queries)
        check_counts(epochs=epochs, batch_size=batch_size)
        super().__init__(validation_fraction=validation_fraction, seed=seed)
        sorted_grid(learning_rates, "learning_rates")  # refuses bad ones
        self.num_heads, self.num_queries, self.learning_rates = num_heads, num_queries, learning_rates
        self.weight_decay, self.epochs, self.batch_size = weight_decay, epochs, batch_size
        self.buffer_rows, self.device = buffer_rows, device

    @property
    def _parts(self) -> int:
        """Into how many parts, each with its own attention, the values are divided."""
        return self.num_heads if self.num_queries is None else self.num_queries

    def _rows(self, features: Features, name: str = "features", width: int | None = None) -> Rows:
        shape = f"(n, T, {'D' if width is None else width})"
        axes = len(getattr(features, "shape", ()))
        layers = features.shape[1] if axes == 5 else 1
        if width is None:
            self._layers = layers
        elif layers != self._layers:
            raise ValueError(f"{name} must be of {self._layers} layers as in fit, got {tuple(features.shape)}")
        if axes in (4, 5):
            return TokenRows(as_rows(features, name, shape.replace("T", "L, G, G"[3 * (5 - axes) :]), axes, width))
        return as_rows(features, name, shape, 3, width)

    def _fit(self, split: TuningSplit) -> None:
        width = split.features.shape[-1]
        if width % self._parts:
            name = "num_heads" if self.num_queries is None else "num_queries"
            raise ValueError(f"{name} must divide the width {width} of the features, got {self._parts}")
        self.classes, targets = class_indices(split.labels)
        self._at_once = self.batch_size
        self._device = torch.device(self.device or split.features.read(np.arange(1)).device)
        self._normalizer = BatchNormalizer(self._layers * width).to(self._device)
        self.validation_accuracy, self.validation_accuracies = -1.0, {}
        normalizer = copy.deepcopy(self._normalizer)

        def score(rates: list[float]) -> dict[float, float]:
            """Train heads of these rates on the same batches, keep the best so far, and tell how good each is."""
            self._normalizer = copy.deepcopy(normalizer)
            heads = self._train(split.features, torch.from_numpy(targets), sorted(rates))
            return self._choose(heads, sorted(rates), split.validation_features, split.validation_labels)

        scores = score(list(sorted_grid(self.learning_rates, "learning_rates")))
        settle(scores, score, RATE_LIMITS)
        self.validation_accuracies = dict(sorted(scores.items()))
        self.warnings = end_warnings("learning rate", scores, self.learning_rate)

    def _train(self, rows: Rows, targets: Tensor, rates: Sequence[float]) -> list[AttentiveHead]:
        heads = []
        for _ in rates:
            generator = torch.Generator().manual_seed(self.seed)
            kind = AttentiveHead if self.num_queries is None else EfficientHead
            heads.append(kind(rows.shape[-1], self._parts, len(self.classes), generator).to(self._device))
        groups = [{"params": list(head.parameters()), "lr": rate} for head, rate in zip(heads, rates, strict=True)]
        optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=self.weight_decay)
        batch_size = min(self.batch_size, len(rows))
        iterations = self.epochs * math.ceil(len(rows) / batch_size)
        warm_up = max(1, iterations // 10)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: warm_up_cosine(done, iterations, warm_up))
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(self.epochs):
            for numbers, batch in shuffled_batches({"": rows}, batch_size, self.buffer_rows, generator):
                logits = self._through(batch[""], heads)
                wanted = targets[numbers].to(self._device)
                optimizer.zero_grad()
                torch.stack([F.cross_entropy(of_head, wanted) for of_head in logits]).sum().backward()
                optimizer.step()
                schedule.step()
        return heads

    def _through(self, features: Tensor, heads: Sequence[AttentiveHead]) -> list[Tensor]:
        """(b, T, D) through every head, whose attention is one product: (b, C) each."""
        tokens = self._normalized(features.to(self._device).float())
        queries = torch.cat([head.queries() for head in heads])  # (R·H, D)
        attention = (tokens @ queries.T).softmax(1)  # (b, T, R·H)
        pooled = attention.transpose(1, 2) @ tokens  # (b, R·H, D)
        return [head.classify(part) for head, part in zip(heads, pooled.split(self._parts, 1), strict=True)]

    def _normalized(self, tokens: Tensor) -> Tensor:
        """(b, L·T, D) by the mean and deviation of each feature of each layer."""
        count, _, width = tokens.shape
        layers = tokens.view(count, self._layers, -1, width).transpose(1, 2)  # (b, T, L, D)
        normalized = self._normalizer(layers.flatten(2).flatten(0, 1)).view(layers.shape)
        return normalized.transpose(1, 2).reshape(tokens.shape)

    @torch.no_grad()
    def _choose(
        self, heads: Sequence[AttentiveHead], rates: Sequence[float], rows: Rows, labels: np.ndarray
    ) -> dict[float, float]:
        self._normalizer.eval()
        places = [
            torch.stack(self._through(block, heads), 1).argmax(2).cpu() for _, block in rows.blocks(self.batch_size)
        ]
        predictions = self.classes[torch.cat(places).numpy()]
        scores = [accuracy(column, labels) for column in predictions.T]
        best = int(np.argmax(scores))
        if scores[best] > self.validation_accuracy:
            self.learning_rate, self.validation_accuracy = rates[best], scores[best]
            self.head = heads[best].requires_grad_(False)
        return dict(zip(rates, scores, strict=True))

    @torch.no_grad()
    def _logits(self, features: Tensor) -> Tensor:
        return self._through(features, [self.head])[0]
