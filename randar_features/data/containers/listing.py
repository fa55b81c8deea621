"""The files below a folder, and which of them are images: by the name, else by the content."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

from randar_features.data.containers.account import HIDDEN, Account
from randar_features.data.containers.paths import head_of
from randar_features.data.decode.formats import GIT_LFS, HEAD_BYTES, image_format

IMAGE_ENDINGS = (
    ".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm",
    ".avif", ".heic", ".heif", ".jp2", ".tga", ".ico", ".qoi",
)  # fmt: skip
"""Names with these endings are taken as images unopened; a file that is none keeps its place, with the reason."""
NO_IMAGE = "of no image format"
LITTER = ("__MACOSX", "@eaDir", "Thumbs.db", "desktop.ini", "$RECYCLE.BIN", "System Volume Information", "lost+found")
"""What operating systems and file servers leave in folders and archives."""


def is_named_as_image(name: str) -> bool:
    """Whether the ending of a name is that of an image."""
    return name.lower().endswith(IMAGE_ENDINGS)


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is passed over without being looked at."""
    return name.startswith(".") or name in LITTER


def is_image(name: str, read: Callable[[], bytes], account: Account) -> bool:
    """Whether a file is taken as an image; `read` gives its first bytes. The account takes down a file that is none."""
    if is_named_as_image(name):
        return True
    try:
        head = read()
    except OSError as error:
        account.pass_over(f"that cannot be opened ({error.strerror})", name)
        return False
    if image_format(head[:HEAD_BYTES]) is not None:
        return True
    account.pass_over("that are Git LFS pointers (git lfs pull)" if head.startswith(GIT_LFS) else NO_IMAGE, name)
    return False


def list_images(folder: Path, account: Account) -> list[Path]:
    """The images in `folder` and below, relative to it, sorted; see :func:`list_files`."""
    return [path for path in list_files(folder, account) if holds_image(folder / path, path, account)]


def holds_image(place: Path, name: Path, account: Account) -> bool:
    """Whether the file at `place` is an image; it is opened only if its name leaves that open."""
    return is_image(str(name), lambda: head_of(place), account)


def list_files(folder: Path, account: Account) -> list[Path]:
    """The regular files in `folder` and below, relative to it, sorted by their parts.

    Each real folder is visited once, before any link to it. Hidden files, pipes, sockets, devices and links to nothing
    are not opened; the account names them.

    Raises:
        OSError: `folder` itself cannot be listed.
    """
    walk = _Walk(folder, account)
    walk.visit(Path())
    # Links come after all real folders, so that a folder is listed at its own place.
    while walk.links:
        walk.follow(walk.links.pop(0))
    return sorted(walk.files, key=lambda path: path.parts)


class _Walk:
    def __init__(self, folder: Path, account: Account) -> None:
        self.folder, self.account = folder, account
        self.root = Path(os.path.realpath(folder))
        self.files: list[Path] = []
        self.links: list[Path] = []
        self.seen: set[tuple[int, int]] = set()

    def visit(self, start: Path) -> None:
        """List a folder and the real ones below it."""
        waiting = [start]
        while waiting:
            below = waiting.pop()
            try:
                status = (self.folder / below).stat()
                entries = sorted(os.scandir(self.folder / below), key=lambda entry: entry.name)
            except OSError as error:
                if below == Path():
                    raise
                self.account.pass_over(f"folders that cannot be listed ({error.strerror})", str(below))
                continue
            if (status.st_dev, status.st_ino) in self.seen:
                self.account.pass_over("folders that were read by another name", str(below))
                continue
            self.seen.add((status.st_dev, status.st_ino))
            if all(is_hidden(entry.name) for entry in entries) and below != Path():
                self.account.pass_over("empty folders", str(below))
            waiting += [below / entry.name for entry in entries if self._is_folder_to_visit(below, entry)]

    def _is_folder_to_visit(self, below: Path, entry: os.DirEntry[str]) -> bool:
        """Whether it is a real folder; a file or a link is noted on the way."""
        path = below / entry.name
        try:
            if is_hidden(entry.name):
                self.account.pass_over(HIDDEN, str(path))
            elif entry.is_dir(follow_symlinks=False):
                return True
            elif entry.is_dir():
                self.links.append(path)
            elif entry.is_file():
                self.files.append(path)
            else:
                self.account.pass_over(_kind(self.folder / path), str(path))
        except OSError as error:
            self.account.pass_over(f"that cannot be opened ({error.strerror})", str(path))
        return False

    def follow(self, link: Path) -> None:
        """Visit what a link leads to, unless that holds this folder itself."""
        target = Path(os.path.realpath(self.folder / link))
        if self.root.is_relative_to(target):
            self.account.pass_over("links to a folder that they lie in", str(link))
        else:
            self.visit(link)


def _kind(path: Path) -> str:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "links to nothing"
    kinds = {stat.S_IFIFO: "pipes (FIFO)", stat.S_IFSOCK: "sockets"}
    return kinds.get(stat.S_IFMT(mode), "devices")
