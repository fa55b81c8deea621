"""Images in ADM's form, an .npz with uint8 "arr_0" (n, H, W, 3): read and written one after the other."""

import shutil
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from randar_features.data.containers.paths import reading
from randar_features.store.files import make_folder, written_whole

IMAGES = "arr_0"


class NpzImages(Dataset[NDArray[np.uint8]]):
    """The images of a file, mapped into memory; `open_images` takes it.

    Args:
        path: the file.
        unpacked: folder for the array of a compressed file, which cannot be mapped.

    Raises:
        ValueError: the file is damaged, or holds no uint8 (n, H, W, 3).
    """

    def __init__(self, path: Path, unpacked: Path) -> None:
        with reading(path, "images in ADM's form"), zipfile.ZipFile(path) as archive:
            member = archive.getinfo(f"{IMAGES}.npy")
            if member.compress_type != zipfile.ZIP_STORED:
                self.images = np.load(_unpacked(archive, member, path, unpacked), mmap_mode="r")
            else:
                self.images = _mapped(archive, member, path)
            if self.images.dtype != np.uint8 or self.images.ndim != 4 or self.images.shape[-1] != 3:
                found = f"{self.images.dtype} {self.images.shape}"
                raise ValueError(f"{IMAGES} holds {found}, expected uint8 (n, H, W, 3)")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        return np.array(self.images[index])


def _mapped(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> NDArray[Any]:
    """The array of a member that is not compressed, mapped where it lies in the file."""
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)  # type: ignore[arg-type]
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)  # type: ignore[arg-type]
        header = file.tell()
    if dtype.hasobject:
        raise ValueError(f"{IMAGES} holds objects, expected uint8")
    with path.open("rb") as file:
        file.seek(member.header_offset + 26)  # lengths of the name and of the extra field, before the data
        name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
    start = member.header_offset + 30 + name + extra + header
    return np.memmap(path, dtype, "r", start, shape, "F" if fortran else "C")


def _unpacked(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path, folder: Path) -> Path:
    make_folder(folder)
    target = folder / f"{path.stem}-{member.CRC:08x}.npy"
    if not target.exists():
        with archive.open(member) as source, written_whole(target) as file:
            shutil.copyfileobj(source, file)
    return target


def write_npz(path: Path, images: Iterable[NDArray[np.uint8]], count: int, labels: NDArray[np.int64]) -> None:
    """Write `count` images (H, W, 3) as "arr_0" and labels (count,) as "arr_1", one image in memory at a time."""
    with written_whole(path) as file, zipfile.ZipFile(file, "w") as archive:
        with archive.open(f"{IMAGES}.npy", "w", force_zip64=True) as member:
            for number, image in enumerate(images):
                if not number:
                    header = {"descr": "|u1", "fortran_order": False, "shape": (count, *image.shape)}
                    np.lib.format.write_array_header_1_0(member, header)
                member.write(np.ascontiguousarray(image).tobytes())
        with archive.open("arr_1.npy", "w") as member:
            np.lib.format.write_array(member, labels)
