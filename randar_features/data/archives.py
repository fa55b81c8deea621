"""Files in a tar archive, read at random without unpacking it."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

from .account import HIDDEN, Account
from .formats import HEAD_BYTES
from .labels import Labels, label_of, read_labels
from .layout import arrange
from .listing import NO_IMAGE, is_hidden, is_image
from .opening import printable
from .paths import check_file, reading

BLOCK = 512
MAX_EXTENSION = 2**20  # bytes of a long name or of extended attributes
MAX_SIDECAR = 2**20  # bytes of a label in a WebDataset tar
EXTENSION_TYPES = (
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
)  # fmt: skip
"""Members that say more about the next one, and are read whole."""


class Member(NamedTuple):
    """A file in an archive: its name, and where its bytes lie."""

    name: str
    offset: int
    size: int


class _Header(tarfile.TarInfo):
    """A header whose size is possible: Python's own goes round in circles on a negative one."""

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
            found = _members(archive, "", 0, account)
    except ValueError as error:
        raise ValueError(
            f"{error}: fetch it again if it is torn, decompress it (gunzip) if it is compressed"
        ) from error
    last = {member.name: member for member in found}  # as unpacking has it: a later file replaces an earlier one
    for member in found:
        if last[member.name] is not member:
            account.pass_over("replaced by a later one of the same name", member.name)
    return list(last.values())


def _members(archive: tarfile.TarFile, parent: str, start: int, account: Account) -> list[Member]:
    """The files of an archive whose first byte is byte `start` of the file that holds it."""
    found: list[Member] = []
    reached = 0
    for entry in archive:
        if entry.size < 0 or archive.offset <= reached:
            raise tarfile.ReadError(f"the member {printable(entry.name)} has an impossible size, {entry.size} bytes")
        reached = archive.offset
        name = str(PurePosixPath(parent) / entry.name)
        reason = _reason_against(entry)
        if reason is not None:
            account.pass_over(reason, name)
        elif entry.isfile() and entry.name.endswith(".tar") and not parent:
            with tarfile.open(fileobj=archive.extractfile(entry), mode="r:", tarinfo=_Header) as inner:
                folder = str(PurePosixPath(entry.name).with_suffix(""))
                found += _members(inner, folder, start + entry.offset_data, account)
        elif entry.isfile():
            found.append(Member(name, start + entry.offset_data, entry.size))
    _check_end(archive)
    return found


def _reason_against(entry: tarfile.TarInfo) -> str | None:
    if any(is_hidden(part) for part in PurePosixPath(entry.name).parts if part != "."):
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


def read_member(path: Path, member: Member) -> bytes:
    """The bytes of one file; OSError if the archive ends before they do."""
    # Opened anew each time: a handle shared by forked workers would share its position.
    with path.open("rb") as file:
        return _read(file, path, member)


def _read(file: BinaryIO, path: Path, member: Member) -> bytes:
    file.seek(member.offset)
    content = file.read(member.size)
    if len(content) != member.size:
        raise OSError(f"{path} ends inside {member.name}: {len(content)} of {member.size} bytes are there")
    return content


class TarImages:
    """The images in a tar, as `datasets` would give them; sorted by their names.

    The folders in it are taken as those on disk are. Beside an image, `key.cls` or `key.json` may hold its label, as
    in WebDataset.
    """

    def __init__(self, path: Path, split: str | None, account: Account) -> None:
        self.path = path
        members = list_tar(path, account)
        sidecars = {member.name: member for member in members if member.name.endswith((".cls", ".json"))}
        with path.open("rb") as file:

            def is_wanted(member: Member) -> bool:
                head = member._replace(size=min(member.size, HEAD_BYTES))
                return is_image(member.name, lambda: _read(file, path, head), account)

            images = [member for member in members if member.name not in sidecars and is_wanted(member)]
            if not images:
                raise ValueError(f"no images in {printable(path)}, which holds {len(members)} other files")
            images.sort(key=lambda member: PurePosixPath(member.name).parts)
            rows, labels = arrange([PurePosixPath(member.name) for member in images], split, printable(path), account)
            self.members = [images[row] for row in rows]
            own = self._sidecar_labels(sidecars, lambda member: _read(file, path, member), account)
        self.labels: Labels = own if own is not None else labels

    def _sidecar_labels(
        self, sidecars: dict[str, Member], read: Callable[[Member], bytes], account: Account
    ) -> Labels | None:
        """The labels of the files beside the images; None where there are none."""
        values: list[Any] = []
        used: set[str] = set()
        for member in self.members:
            folder, slash, name = member.name.rpartition("/")
            key = folder + slash + name.partition(".")[0]
            beside = [sidecars[key + ending] for ending in (".cls", ".json") if key + ending in sidecars]
            used.update(each.name for each in beside)
            labels = (_label_in(self.path, each, read) for each in beside)
            values.append(next((label for label in labels if label is not None), None))
        for name in sidecars.keys() - used:
            account.pass_over(NO_IMAGE, name)
        if all(value is None for value in values):
            return None
        account.notes.append("labels from the .cls or .json files beside the images")
        return read_labels(_as_numbers(values), None, account)

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, index: int) -> dict[str, Any]:
        member = self.members[index]
        return {"image": {"bytes": read_member(self.path, member), "path": f"{self.path}/{member.name}"}}


def _label_in(path: Path, member: Member, read: Callable[[Member], bytes]) -> Any:
    """The label in a `.cls` file, or in a `.json` file under a known key; None where there is none."""
    if member.size > MAX_SIDECAR:
        return None
    with reading(path / member.name, "a label"):
        text = read(member).decode().strip()
        if member.name.endswith(".cls"):
            return text
        content = json.loads(text)
        return label_of(content) if isinstance(content, dict) else None


def _as_numbers(values: Sequence[Any]) -> list[Any]:
    """Texts that are all whole numbers as such: a `.cls` file holds an index in digits."""
    texts = [value for value in values if value is not None]
    if all(isinstance(value, str) and value.lstrip("-").isdecimal() for value in texts):
        return [None if value is None else int(value) for value in values]
    return list(values)
