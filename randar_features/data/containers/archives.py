"""Files in a tar archive, read at random without unpacking it."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

from randar_features.data.containers.account import HIDDEN, Account
from randar_features.data.containers.labels import Labels, label_of, read_labels
from randar_features.data.containers.layout import arrange
from randar_features.data.containers.listing import NO_IMAGE, is_hidden, is_image
from randar_features.data.containers.paths import check_file, reading
from randar_features.data.containers.shards import is_shard_name
from randar_features.data.decode.formats import HEAD_BYTES
from randar_features.store.records import printable

BLOCK = 512
MAX_EXTENSION = 2**20  # bytes of a long name or of extended attributes
SIDECARS = (".cls", ".json")  # files that may hold the label of the image beside them, as in WebDataset
MAX_SIDECAR = 2**20  # bytes of one
EXTENSION_TYPES = (
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
)  # fmt: skip
"""Members that describe the next one; they are read whole."""


class Member(NamedTuple):
    """A file in an archive: the archive, its name, and where its bytes lie."""

    archive: Path
    name: str
    offset: int
    size: int


class _Header(tarfile.TarInfo):
    """A header whose size is possible: Python's own never ends on a negative one."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        """As in `tarfile`."""
        header = super().frombuf(buf, encoding, errors)
        if header.size < 0 or (header.type in EXTENSION_TYPES and header.size > MAX_EXTENSION):
            raise tarfile.InvalidHeaderError(f"a member of {header.size} bytes")  # type: ignore[attr-defined]
        return header


def list_tar(path: Path, account: Account) -> list[Member]:
    """The regular files in an uncompressed tar, in its order; hidden ones, links and sparse files are passed over.

    A tar inside the tar counts as a folder of its name without the ending, as ImageNet comes from its authors.

    Raises:
        ValueError: the archive is torn, damaged, compressed or none.
    """
    check_file(path)
    try:
        # "r:" refuses compressed archives, which can only be read from their beginning.
        with reading(path, "an uncompressed tar"), tarfile.open(path, "r:", tarinfo=_Header) as archive:
            found = _members(path, archive, "", 0, account)
    except ValueError as error:
        raise ValueError(
            f"{error}: fetch it again if it is torn, decompress it (gunzip) if it is compressed"
        ) from error
    last = {member.name: member for member in found}  # a later file replaces an earlier one, as when unpacking
    for member in found:
        if last[member.name] is not member:
            account.pass_over("replaced by a later one of the same name", member.name)
    return list(last.values())


def _members(path: Path, archive: tarfile.TarFile, parent: str, start: int, account: Account) -> list[Member]:
    """The files of an archive whose first byte is byte `start` of the file that holds it."""
    found: list[Member] = []
    reached = 0
    for entry in archive:
        if entry.size < 0 or archive.offset <= reached:
            raise tarfile.ReadError(f"the member {printable(entry.name)} has an impossible size, {entry.size} bytes")
        reached = archive.offset
        name = str(PurePosixPath(parent, *_parts(entry.name)))
        reason = _reason_against(entry)
        if reason is not None:
            account.pass_over(reason, name)
        elif entry.isfile() and entry.name.endswith(".tar") and not parent:
            with tarfile.open(fileobj=archive.extractfile(entry), mode="r:", tarinfo=_Header) as inner:
                folder = PurePosixPath(name).with_suffix("")
                found += _members(path, inner, str(folder), start + entry.offset_data, account)
        elif entry.isfile():
            found.append(Member(path, name, start + entry.offset_data, entry.size))
    _check_end(archive)
    return found


def _parts(name: str) -> list[str]:
    """The parts of a member's name without those that lead out of the archive, which unpacking drops too."""
    return [part for part in PurePosixPath(name).parts if part not in ("/", "//", "..")]


def _reason_against(entry: tarfile.TarInfo) -> str | None:
    if any(map(is_hidden, _parts(entry.name))):
        return None if entry.isdir() else HIDDEN
    if entry.issparse():
        return "sparse members of the tar, whose bytes do not lie in one piece"
    if entry.issym() or entry.islnk():
        return "links in the tar"
    return None if entry.isfile() or entry.isdir() else "no regular files"


def _check_end(archive: tarfile.TarFile) -> None:
    """See that a tar ends as tars do, in zeros: Python takes a torn or damaged header for the end."""
    file = archive.fileobj
    assert file is not None
    file.seek(archive.offset)
    block = file.read(BLOCK)
    if len(block) < BLOCK:
        raise tarfile.ReadError(f"it ends after {archive.offset + len(block)} bytes without its closing blocks")
    while block:
        if block.strip(b"\0"):
            raise tarfile.ReadError(
                f"it goes on after byte {archive.offset} with what is no header: damaged, or several tars joined"
            )
        block = file.read(BLOCK * 128)


def read_member(member: Member) -> bytes:
    """The bytes of one file; OSError if the archive ends before they do."""
    # Opened anew each time: a handle shared by forked workers would share its position.
    with member.archive.open("rb") as file:
        return _read(file, member)


def _read(file: BinaryIO, member: Member) -> bytes:
    file.seek(member.offset)
    content = file.read(member.size)
    if len(content) != member.size:
        raise OSError(f"{member.archive} ends inside {member.name}: {len(content)} of {member.size} bytes are there")
    return content


class TarImages:
    """The images in one tar or several, as `datasets` would give them; those of each tar sorted by their names.

    Folders in them mean what they mean on disk. As in WebDataset, `key.cls` or `key.json` beside an image may hold its
    label. Several tars are the shards of one source. If they hold only images and are named after classes, as in
    ImageNet (n01440764.tar), each is a folder of its name.

    Attributes:
        files: the tars, in their order.

    Raises:
        ValueError: a tar is torn or damaged, or not one of them holds an image.
    """

    def __init__(self, files: Sequence[Path], split: str | None, account: Account, where: Path | None = None) -> None:
        self.files = list(files)
        where = where or self.files[0]
        found: list[Member] = []
        sidecars: dict[tuple[Path, str], Member] = {}
        for file in self.files:
            images, beside = _images_and_sidecars(file, account)
            found += images
            if not images and len(self.files) > 1:
                account.pass_over("tars without images", str(file))
            sidecars |= {(file, member.name): member for member in beside}
        found = _one_a_sample(found, sidecars, account)
        if not found:
            raise ValueError(f"no images in {printable(where)}: {'; '.join(account.losses()) or 'nothing is there'}")
        if len(self.files) > 1:
            account.notes.append(f"{len(self.files)} tars")
        by_name = _are_classes(self.files, found, sidecars)
        names = [PurePosixPath(one.archive.stem if by_name else "") / one.name for one in found]
        rows, labels = arrange(names, split, printable(where), account)
        self.members = [found[row] for row in rows]
        own = self._sidecar_labels(sidecars, account)
        self.labels: Labels = own if own is not None else labels

    def _sidecar_labels(self, sidecars: dict[tuple[Path, str], Member], account: Account) -> Labels | None:
        """The labels of the files beside the images; None where there are none."""
        values: list[Any] = []
        used: set[tuple[Path, str]] = set()
        for member in self.members:
            beside = _beside(member, sidecars)
            used.update(beside)
            labels = (_label_in(sidecars[place]) for place in beside)
            values.append(next((label for label in labels if label is not None), None))
        for _, name in sidecars.keys() - used:
            account.pass_over(NO_IMAGE, name)
        if all(value is None for value in values):
            if used:
                account.notes.append("no labels in the .cls or .json files beside the images")
            return None
        account.notes.append("labels from the .cls or .json files beside the images")
        return read_labels(_as_numbers(values), None, account)

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, index: int) -> dict[str, Any]:
        member = self.members[index]
        return {"image": {"bytes": read_member(member), "path": f"{member.archive}/{member.name}"}}


def _images_and_sidecars(path: Path, account: Account) -> tuple[list[Member], list[Member]]:
    """The images of a tar, sorted by name, and the files that may hold their labels."""
    members = list_tar(path, account)
    sidecars = [member for member in members if member.name.endswith(SIDECARS)]
    with path.open("rb") as file:

        def is_wanted(member: Member) -> bool:
            head = member._replace(size=min(member.size, HEAD_BYTES))
            return is_image(member.name, lambda: _read(file, head), account)

        images = [member for member in members if not member.name.endswith(SIDECARS) and is_wanted(member)]
    return sorted(images, key=lambda member: PurePosixPath(member.name).parts), sidecars


def _key(member: Member) -> tuple[str, str]:
    """The sample of a member, its name up to the first point as in WebDataset, and the rest of its name."""
    folder, slash, name = member.name.rpartition("/")
    key, _, ending = name.partition(".")
    return folder + slash + key, ending


def _beside(image: Member, sidecars: Collection[tuple[Path, str]]) -> list[tuple[Path, str]]:
    """The files of an image's sample that may hold its label."""
    places = [(image.archive, _key(image)[0] + ending) for ending in SIDECARS]
    return [place for place in places if place in sidecars]


def _one_a_sample(images: list[Member], sidecars: Collection[tuple[Path, str]], account: Account) -> list[Member]:
    """The images that stand for themselves: `key.seg.png` is a mask where `key.jpg` and `key.cls` are."""
    plain = {(one.archive, _key(one)[0]) for one in images if "." not in _key(one)[1] and _beside(one, sidecars)}
    others = {one for one in images if "." in _key(one)[1] and (one.archive, _key(one)[0]) in plain}
    kept = []
    for one in images:
        if one in others:
            account.pass_over("that say more of an image of the same WebDataset sample", one.name)
        else:
            kept.append(one)
    return kept


def _are_classes(files: Sequence[Path], images: Sequence[Member], sidecars: Collection[Any]) -> bool:
    """Whether each of several tars holds the images of one class, whose name it has."""
    flat = not sidecars and all(len(PurePosixPath(image.name).parts) == 1 for image in images)
    return flat and len(files) > 1 and not any(is_shard_name(file.stem) for file in files)


def _label_in(member: Member) -> Any:
    """The label in a `.cls` file, or in a `.json` file under a known key; None where there is none."""
    if member.size > MAX_SIDECAR:
        return None
    with reading(member.archive / member.name, "a label"):
        text = read_member(member).decode("utf-8-sig").strip()
        if member.name.endswith(".cls"):
            return text or None
        content = json.loads(text)
        return label_of(content) if isinstance(content, dict) else None


def _as_numbers(values: Sequence[Any]) -> list[Any]:
    """Labels as numbers if all are whole numbers in digits, as in a `.cls` file."""
    texts = [value for value in values if value is not None]
    if all(isinstance(value, str) and re.fullmatch("-?[0-9]+", value) for value in texts):
        return [None if value is None else int(value) for value in values]
    return list(values)
