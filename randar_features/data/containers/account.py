"""The account of what was found when a source was opened: images, classes, files passed over, labels dropped."""

import logging
import warnings
from dataclasses import dataclass, field

from randar_features.store.records import printable

logger = logging.getLogger(__name__)

NAMED = 5  # names that an account keeps for each reason
HIDDEN = "hidden"  # a reason that is counted without a warning: nobody means `.DS_Store` to be an image


@dataclass
class Named:
    """How many, and the names of the first."""

    count: int = 0
    names: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        """Count one more."""
        self.count += 1
        if len(self.names) < NAMED:
            self.names.append(printable(name))

    def __str__(self) -> str:
        more = ", …" if self.count > len(self.names) else ""
        return f"{self.count} ({', '.join(self.names)}{more})"


@dataclass
class Account:
    """What was found when a source was opened, and what of it was not used.

    Attributes:
        images: their number; None for a stream that cannot tell.
        masks: their number; None where images are opened without masks.
        classes: number of classes that have a name, or occur as numbers; None without labels.
        unlabelled: images without a label where others have one; None if known only after reading.
        passed_over: reason → files that were not taken as images.
        dropped: reason → images whose label was not taken.
        noticed: pictures that their owner should look at, such as nearly black ones; known once they are read.
        notes: where labels come from, which split was opened, and the like.
    """

    images: int | None = None
    masks: int | None = None
    classes: int | None = None
    unlabelled: int | None = None
    passed_over: dict[str, Named] = field(default_factory=dict)
    dropped: dict[str, Named] = field(default_factory=dict)
    noticed: Named = field(default_factory=Named)
    notes: list[str] = field(default_factory=list)
    _told: bool = False

    def pass_over(self, reason: str, name: str) -> None:
        """A file is not taken as an image."""
        self.passed_over.setdefault(reason, Named()).add(name)

    def drop(self, reason: str, name: str) -> None:
        """The label of an image is not taken. A warning says so if the account was logged before."""
        known = reason in self.dropped
        self.dropped.setdefault(reason, Named()).add(name)
        if self._told and not known:
            warnings.warn(f"labels dropped: {reason} ({printable(name)})", stacklevel=2)

    def notice(self, what: str, name: str) -> None:
        """A picture was read that its owner should look at. The first is said at once."""
        self.noticed.add(name)
        if self.noticed.count == 1:
            warnings.warn(f"{printable(name)} {what}; open_images(…).account.noticed counts all such", stacklevel=2)

    def __str__(self) -> str:
        images = "a stream of images" if self.images is None else f"{self.images} images"
        images = "1 image" if self.images == 1 else images
        classes = "without labels" if self.classes is None else f"of {self.classes} classes"
        classes = classes if self.masks is None else f"and {self.masks} masks"
        unlabelled = f", {self.unlabelled} without a label" if self.unlabelled else ""
        return ". ".join([f"{images} {classes}{unlabelled}", *self.notes, *self.losses(hidden=True)])

    def losses(self, *, hidden: bool = False) -> list[str]:
        """What was passed over and dropped, one line each; with the hidden files if they are wanted."""
        passed = {reason: named for reason, named in self.passed_over.items() if hidden or reason != HIDDEN}
        lines = [f"files passed over, {reason}: {named}" for reason, named in passed.items()]
        return lines + [f"labels dropped, {reason}: {named}" for reason, named in self.dropped.items()]

    def tell(self) -> None:
        """Log the account, and warn of what was passed over or dropped; once."""
        if self._told:
            return
        self._told = True
        logger.info("opened %s", self)
        if losses := self.losses():
            warnings.warn("; ".join(losses), stacklevel=4)
