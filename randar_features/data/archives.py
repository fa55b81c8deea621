"""Files in a tar archive, read at random without unpacking it."""

from __future__ import annotations

import tarfile
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple


class Member(NamedTuple):
    """A file in an archive: its name, and where its bytes lie."""

    name: str
    offset: int
    size: int


def list_tar(path: Path, extensions: Collection[str]) -> list[Member]:
    """The files of these extensions in an uncompressed tar, in its order; hidden ones are passed over.

    A tar inside the tar counts as a folder of its name without the ending, as ImageNet comes from its authors.

    Raises:
        ValueError: the archive is torn, compressed or none, or holds no such file.
    """
    found: list[Member] = []
    try:
        # "r:" refuses compressed archives, which can only be read from their beginning.
        with tarfile.open(path, "r:") as archive:
            for entry in archive:
                if not entry.isfile():
                    continue
                if entry.name.endswith(".tar"):
                    with tarfile.open(fileobj=archive.extractfile(entry), mode="r:") as inner:
                        parent = PurePosixPath(entry.name).with_suffix("")
                        found += [
                            Member(str(parent / file.name), entry.offset_data + file.offset_data, file.size)
                            for file in inner
                            if file.isfile()
                        ]
                else:
                    found.append(Member(entry.name, entry.offset_data, entry.size))
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(
            f"{path} cannot be read as an uncompressed tar ({error}): fetch it again if it is torn, "
            "decompress it (gunzip) if it is compressed"
        ) from error
    kept = [member for member in found if _is_wanted(member.name, extensions)]
    if not kept:
        raise ValueError(f"no files with {', '.join(extensions)} in {path}, which holds {len(found)} other files")
    return kept


def _is_wanted(name: str, extensions: Collection[str]) -> bool:
    hidden = any(part.startswith(".") and part != "." for part in PurePosixPath(name).parts)
    return not hidden and name.lower().endswith(tuple(extensions))


def read_member(path: Path, member: Member) -> bytes:
    """The bytes of one file; OSError if the archive ends before they do."""
    # Opened anew each time: a handle shared by forked workers would share its position.
    with path.open("rb") as file:
        file.seek(member.offset)
        content = file.read(member.size)
    if len(content) != member.size:
        raise OSError(f"{path} ends inside {member.name}: {len(content)} of {member.size} bytes are there")
    return content


class TarImages:
    """Images `class/file` in a tar, as `datasets` would give them; sorted by class and name.

    Where a file lies in no folder, there are no classes.
    """

    def __init__(self, path: Path, extensions: Collection[str], split: str | None = None) -> None:
        members = list_tar(path, extensions)
        if split is not None:
            members = [member for member in members if split in _parents(member)[:-1]]
            if not members:
                raise ValueError(f"split='{split}': {path} holds no files {split}/class/file")
        self.path = path
        self.members = sorted(members, key=lambda member: PurePosixPath(member.name).parts)
        parents = [_parents(member) for member in self.members]
        self.label_names = sorted({each[-1] for each in parents}) if all(parents) else None
        labels = {name: label for label, name in enumerate(self.label_names or [])}
        self._labels = [labels[each[-1]] if labels else None for each in parents]

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, index: int) -> dict[str, Any]:
        member = self.members[index]
        image = {"bytes": read_member(self.path, member), "path": f"{self.path}/{member.name}"}
        return {"image": image, "label": self._labels[index]}


def _parents(member: Member) -> tuple[str, ...]:
    return tuple(part for part in PurePosixPath(member.name).parts[:-1] if part != ".")
