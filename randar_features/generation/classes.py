"""Classes by name: which index a name means, and what to suggest where it means none."""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

from torch import Tensor

from randar_features.hub.load import transformer_of
from randar_features.sequence import has_several

SUGGESTIONS = 5
SHORTEST_TYPO = 4
"""Letters of a name that may be misspelt; among shorter words nearly any two are alike, such as cat and coat."""
EVERYDAY = {
    "dog": "chihuahua terrier retriever shepherd poodle spaniel hound beagle husky collie bulldog pug corgi setter",
    "puppy": "chihuahua terrier retriever shepherd poodle",
    "cat": "tabby cat",
    "kitten": "tabby cat",
    "bird": "stork penguin albatross goose finch robin jay owl eagle parrot hen duck flamingo pelican",
    "fish": "goldfish shark ray tench eel sturgeon",
    "insect": "ladybug fly bee grasshopper cockroach mantis dragonfly butterfly monarch ant beetle cricket",
    "snake": "boa cobra viper python mamba",
    "spider": "tarantula widow",
    "frog": "bullfrog",
    "monkey": "baboon chimpanzee orangutan gorilla macaque",
    "cow": "ox bison",
    "pig": "hog",
    "car": "convertible limousine wagon van jeep cab",
    "boat": "lifeboat gondola canoe yawl",
    "mountain": "alp cliff volcano",
    "beach": "seashore lakeside sandbar",
    "sea": "seashore coral",
    "fruit": "orange lemon banana pomegranate strawberry fig pineapple",
    "vegetable": "cauliflower pepper broccoli cucumber",
    "food": "pizza guacamole potpie pretzel potato loaf",
    "coffee": "espresso",
    "bridge": "bridge viaduct",
    "clothes": "kimono cardigan poncho sock miniskirt coat",
}
"""Everyday words, and words of ImageNet's names that mean a kind of them."""

ClassesLike = Tensor | Sequence[int | str] | int | str


def resolve(model: Any, classes: Any) -> tuple[Any, Any]:
    """The transformer of a model, and class names as indices; a transformer and indices pass as they are.

    Raises:
        TypeError: it is neither.
        ValueError: a name that the model's classes do not have, or a name where it has none.
    """
    transformer = transformer_of(model)
    if transformer is model:
        return model, classes
    names, count = getattr(model, "classes", None), transformer.config.num_classes
    if isinstance(classes, str):
        return transformer, find_class(classes, names, count)
    if has_several(classes) and not isinstance(classes, Tensor | Set | Mapping | bytearray):
        classes = [find_class(one, names, count) if isinstance(one, str) else one for one in classes]
    return transformer, classes


def find_class(wanted: str, names: Sequence[str] | None, num_classes: int) -> int:
    """A class index from a name or an index; a name may be one of several that commas separate.

    A number that names a class means that name, such as that of a numbered folder, and no index.

    Raises:
        ValueError: an index outside the classes, or a name that is unknown or not the name of one class alone;
            the message suggests names that have a word or a kind in common.
    """
    synonyms = [spellings_of(name) for name in names or ()]
    found = [index for index, several in enumerate(synonyms) if wanted.strip().lower() in several]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"{wanted!r} names the classes {', '.join(map(str, found))}: give one of these indices")
    if wanted.isdecimal():
        if int(wanted) >= num_classes:
            raise ValueError(f"class {wanted} is outside 0 … {num_classes - 1}")
        return int(wanted)
    if names is None:
        raise ValueError(f"the model's classes have no names: give an index in 0 … {num_classes - 1}, not {wanted!r}")
    nearest = nearest_names(wanted, names)
    hint = f"nearest: {', '.join(nearest)}" if nearest else "model.classes and --list-classes have all names"
    raise ValueError(f"no class is named {wanted!r}; {hint}")


def spellings_of(name: str) -> set[str]:
    """What a class may be called by: its name, each part between commas, and that without a WordNet number."""
    parts = [name, *name.split(",")]
    return {_without_number(part.strip().lower()) for part in parts} | {name.lower()}


def short_name(name: str) -> str:
    """A class for a label: the first of its names, without a WordNet number."""
    return _without_number(name.split(",")[0].strip())


def _without_number(name: str) -> str:
    return re.sub(r"^n\d{8} ", "", name)


def nearest_names(wanted: str, names: Sequence[str]) -> list[str]:
    """Names to suggest: those with a word in common, those of a kind with it, and those it may be misspelt from."""
    words = [words_of(name) for name in names]
    for given in (words_of(wanted), kinds_of(wanted)):
        found = [name for name, own in zip(names, words, strict=True) if given & own]
        if found:
            also = [name for name, own in zip(names, words, strict=True) if kinds_of(wanted) & own]
            return list(dict.fromkeys(found + also))[:SUGGESTIONS]
    return list(misspelt(wanted, names))[:SUGGESTIONS]


def words_of(text: str) -> set[str]:
    """The words of a name, in lower case and the singular."""
    return {word.removesuffix("s") if len(word) > 3 else word for word in re.findall(r"\w+", text.lower())}


def kinds_of(text: str) -> set[str]:
    """Words of classes that are a kind of an everyday word."""
    return {kind for word in words_of(text) for kind in words_of(EVERYDAY.get(word, ""))}


def misspelt(wanted: str, names: Sequence[str]) -> Iterator[str]:
    """Names, the likeliest first, that somebody who wrote `wanted` may have meant letter for letter."""
    if len(wanted) < SHORTEST_TYPO:
        return
    spellings = {spelling: spelling for name in names for spelling in sorted(spellings_of(name))}
    spellings |= {word: name.lower() for name in names for word in words_of(name) if len(word) >= SHORTEST_TYPO}
    for found in difflib.get_close_matches(wanted.lower(), sorted(spellings), n=SUGGESTIONS, cutoff=0.75):
        yield spellings[found]
