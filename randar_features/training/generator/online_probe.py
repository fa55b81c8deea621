"""A probe of the features during training, which shows early whether a run improves them."""

from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from randar_features.data import open_images
from randar_features.data.token_store import TokenStore
from randar_features.hub import load_tokenizer
from randar_features.models import ImageTransformer, middle_layer
from randar_features.models.base import context_of
from randar_features.store.records import OK
from randar_features.tokenizers import ImageTokenizer

Encode = Callable[..., Mapping[tuple[str, str], Tensor]]
"""`encode(model, tokens, layer=, context=, read=)` → maps (B, G, G, D) by context and read, one or several each."""

NEIGHBOURS = 20
AT_ONCE = 64  # images
RIDGE = 100.0  # of standardised features and some thousand images


class OnlineProbe:
    """Accuracies, in percent, of simple classifiers of mean-pooled features, and the features' effective rank.

    `probe(model)` gives, for each context and read such as "single" and "image":

    - `knn_single_image`: the vote of 20 neighbours by cosine of standardised features;
    - `ridge_single_image`: ridge regression to the classes (He et al. 2020 show it follows the logistic probe);
    - `rankme_single_image`: RankMe (Garrido et al., arXiv 2210.02885), exp of the entropy of the singular values'
      shares: how many directions the features use.

    Features are the middle block's. A quarter of the images is held out to test. Tokens are made once; labels are never
    shown to the model.

    Args:
        encode: the feature engine.
        tokenizer: that made the training tokens.
        images: labelled, as `open_images` takes them.
        image_size: the tokenizer's.
        count: how many of them, evenly spread; fewer if there are no more.

    Raises:
        ValueError: an image cannot be read or has no label, or there are too few.
    """

    def __init__(
        self, encode: Encode, tokenizer: ImageTokenizer, images: Any, *, image_size: int, count: int = 4000
    ) -> None:
        self.encode, source = encode, open_images(images)
        rows = np.linspace(0, len(source) - 1, min(count, len(source))).astype(int).tolist()
        device, tokens, labels = next(tokenizer.parameters()).device, [], []
        for batch in source.batches(image_size, AT_ONCE, rows=[rows]):
            for status, label in zip(batch.status, batch.labels, strict=True):
                if status != OK or label is None:
                    raise ValueError(
                        f"the probe needs labelled images; one has {status if status != OK else 'no label'}"
                    )
            tokens.append(tokenizer.encode(batch.pixels.to(device)).cpu())
            labels += batch.labels
        self.tokens, self.labels = torch.cat(tokens), np.array(labels)
        # Any quarter that a fixed seed draws: data may be sorted by class.
        self.held_back = np.zeros(len(labels), dtype=bool)
        self.held_back[np.random.default_rng(0).permutation(len(labels))[: len(labels) // 4]] = True
        if self.held_back.sum() < 1 or (~self.held_back).sum() <= NEIGHBOURS:
            raise ValueError(f"{len(labels)} images to probe with, expected at least {NEIGHBOURS * 4 // 3 + 2}")

    @classmethod
    def of_store(cls, store: TokenStore, encode: Encode, images: Any, **options: Any) -> Self:
        """A probe with the tokenizer that lies beside the training tokens; ValueError if there is none."""
        if store.tokenizer is None:
            raise ValueError(f"the probe needs the tokenizer that made the tokens: {store.folder.parent} holds none")
        tokenizer, image_size = load_tokenizer(store.tokenizer)
        return cls(encode, tokenizer, images, image_size=image_size, **options)

    @torch.no_grad()
    def __call__(self, model: ImageTransformer) -> dict[str, float]:
        """The figures of a model in evaluation mode, on its device."""
        figures: dict[str, float] = {}
        for name, features in self._features(model).items():
            figures |= {f"{kind}_{name}": value for kind, value in self._scores(features).items()}
        return figures

    def _features(self, model: ImageTransformer) -> dict[str, np.ndarray]:
        """Mean-pooled features (n, D) by context and read."""
        reads = list(model.reads)
        contexts = dict.fromkeys(("single", context_of(model, None, reads[0])))
        layer = middle_layer(model, reads[0])
        parts: dict[str, list[Tensor]] = {}
        for tokens in self.tokens.split(AT_ONCE):
            maps = self.encode(model, tokens.to(model.device), layer=layer, context=[*contexts], read=reads)
            for (context, read), values in maps.items():
                parts.setdefault(f"{context}_{read}", []).append(values.mean((1, 2)).float().cpu())
        return {name: torch.cat(values).numpy() for name, values in parts.items()}

    def _scores(self, features: np.ndarray) -> dict[str, float]:
        from sklearn.linear_model import RidgeClassifier  # takes seconds to import, and most trainings have no probe
        from sklearn.neighbors import KNeighborsClassifier
        from sklearn.preprocessing import StandardScaler

        train, test = features[~self.held_back], features[self.held_back]
        scaler = StandardScaler().fit(train)
        train, test = scaler.transform(train), scaler.transform(test)
        scores = {}
        for kind, classifier in {
            "knn": KNeighborsClassifier(NEIGHBOURS, metric="cosine"),
            "ridge": RidgeClassifier(alpha=RIDGE),
        }.items():
            classifier.fit(train, self.labels[~self.held_back])
            scores[kind] = 100.0 * classifier.score(test, self.labels[self.held_back])
        return scores | {"rankme": rankme(features)}


def rankme(features: np.ndarray) -> float:
    """exp of the entropy of the singular values' shares of centred features (n, D); 1 … D."""
    values = np.linalg.svd(features - features.mean(0), compute_uv=False)
    shares = values / max(values.sum(), np.finfo(values.dtype).tiny) + 1e-7
    return float(np.exp(-(shares * np.log(shares)).sum()))
