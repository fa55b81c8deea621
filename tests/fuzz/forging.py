"""Make the checksums of a damaged file right, as somebody would who means harm."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import xxhash

from probes.index import files as index_files
from randar_features.store import manifest as store_manifest
from randar_features.training import checkpoint


def forge_store(folder: Path, path: Path) -> None:
    """A shard carries its checksum in its name, the manifest in itself."""
    if path.name == store_manifest.MANIFEST:
        _seal(path, store_manifest._checksum)
    elif path.suffix == ".arrow":
        digest = xxhash.xxh3_64_hexdigest(path.read_bytes())
        path.rename(path.with_name(f"{path.stem.rpartition('-')[0]}-{digest}.arrow"))


def forge_index(folder: Path, path: Path) -> None:
    """The manifest has the checksums of all files and of itself."""
    manifest = folder / index_files.MANIFEST
    if path != manifest:
        content = json.loads(manifest.read_bytes())
        for kind, record in content["files"].items():
            if record["name"] == path.name:
                content["files"][kind] = index_files.file_record(path)
        manifest.write_text(json.dumps(content))
    _seal(manifest, index_files.checksum)


def forge_checkpoint(folder: Path, path: Path) -> None:
    """The manifest has the checksums of all files and of itself."""
    manifest = path.parent / checkpoint.MANIFEST
    if path != manifest:
        content = json.loads(manifest.read_bytes())
        content["sha256"][path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
        manifest.write_text(json.dumps(content))
    _seal(manifest, checkpoint._seal)


def _seal(path: Path, checksum: Any) -> None:
    try:
        content = json.loads(path.read_bytes())
        path.write_text(json.dumps(content | {"checksum": checksum(content)}))
    except (ValueError, TypeError, AttributeError, RecursionError):
        return  # it is no manifest any more
