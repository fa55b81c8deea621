"""The manifest of a store: a description of its values, their data, and the number of images."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from randar_features.store.files import read_json, write_json
from randar_features.store.identity import hash_bytes
from randar_features.store.records import Source
from randar_features.store.shards import Shard

MANIFEST = "manifest.json"
FORMAT = 2
MOST = 10**9  # rows, as the names of shards have nine digits
_OLD = ("rows-*.safetensors", "shard-*.npy", "about.json", "pixels.u8")
Manifest = dict[str, Any]


def read_manifest(folder: Path, kind: str, made_by: str) -> Manifest:
    """The manifest of a store of that kind.

    Raises:
        FileNotFoundError: there is none; the message names the command that makes it.
        ValueError: it is torn, was altered, or is of another format or kind; the message names the file.
    """
    path = folder / MANIFEST
    check_format(folder, made_by)
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: make the store with {made_by}")
    manifest = read_json(path)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT or "kind" not in manifest:
        raise ValueError(f"{path} is no manifest of a store of format {FORMAT}")
    if manifest.get("checksum") != _checksum(manifest):
        raise ValueError(f"{path} was altered or is damaged: its checksum is wrong. {_anew(folder, made_by)}")
    if manifest.get("kind") != kind:
        raise ValueError(f"{path} is of {manifest.get('kind')}, expected {kind}")
    if wrong := _fault(manifest):
        raise ValueError(f"{path} is damaged: {wrong}. {_anew(folder, made_by)}")
    return {name: value for name, value in manifest.items() if name != "checksum"}


def _fault(manifest: Manifest) -> str | None:
    """What is wrong with the parts and names of classes of a manifest whose checksum is right; None if nothing is."""
    parts, names = manifest.get("parts"), manifest.get("label_names")
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        return f"label_names are {_short(names)}, expected a list of texts"
    if "label_names" not in manifest or not isinstance(parts, list) or not parts:
        return "it has no label_names or no parts"
    for part in parts:
        whole = isinstance(part, dict) and {"first", "rows", "data", "root"} <= part.keys()
        numbers = [part["first"], 0 if part["rows"] is None else part["rows"]] if whole else [None]
        if not all(type(number) is int and 0 <= number < MOST for number in numbers):
            return f"a part is {_short(part)}"
        if not isinstance(part["root"], str | None) or "\0" in (part["root"] or ""):
            return f"a part has the root {_short(part['root'])}"
    return None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write it with its checksum, unless it is there as it is."""
    content = manifest | {"checksum": _checksum(manifest)}
    path = folder / MANIFEST
    try:
        if path.exists() and read_json(path) == json.loads(json.dumps(content)):
            return
    except ValueError:
        pass  # it is torn
    write_json(path, content)


def check_format(folder: Path, made_by: str) -> None:
    """ValueError if the folder holds a store as earlier versions wrote them."""
    for pattern in _OLD:
        if (found := next(folder.glob(pattern), None)) is not None:
            raise ValueError(f"{found} was written by an earlier version. {_anew(folder, made_by)}")


def check_foreign(folder: Path) -> None:
    """ValueError if the folder holds a manifest.json that no store wrote; a torn one is replaced."""
    path = folder / MANIFEST
    try:
        content = read_json(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return
    if not (isinstance(content, dict) and {"format", "kind", "parts"} <= content.keys()):
        raise ValueError(f"{path} is no manifest of a store, and would be replaced by one: give another folder")


def expected_rows(manifest: Manifest) -> int | None:
    """How many rows the finished store has; None while a stream of unknown length is read."""
    last = manifest["parts"][-1]
    return None if last["rows"] is None else last["first"] + last["rows"]


def missing_rows(manifest: Manifest, shards: Sequence[Shard]) -> list[range]:
    """The runs of rows that no shard holds yet."""
    expected, runs, next_row = expected_rows(manifest), [], 0
    for shard in shards:
        if shard.rows.start > next_row:
            runs.append(range(next_row, shard.rows.start))
        next_row = max(next_row, shard.rows.stop)
    if expected is None:
        runs.append(range(next_row, next_row + 1))
    elif expected > next_row:
        runs.append(range(next_row, expected))
    return runs


def images_in(manifest: Manifest) -> str:
    """Number and name of the data."""
    counts: Counter[str] = Counter()
    for part in manifest["parts"]:
        counts[part["data"]] += part["rows"] or 0
    return ", ".join(f"{rows or 'a stream'} of {data}" for data, rows in counts.items())


def root_of(manifest: Manifest, row: int) -> Path | None:
    """The root of the data that a row belongs to."""
    part = next(part for part in reversed(manifest["parts"]) if part["first"] <= row)
    return None if part["root"] is None else Path(part["root"])


def rows_of(part: Mapping[str, Any]) -> range:
    """The rows of a part; none while its length is not known."""
    return range(part["first"], part["first"] + (part["rows"] or 0))


def layout(part: Mapping[str, Any], shard_rows: int) -> list[range]:
    """The rows of each shard of a part."""
    rows = rows_of(part)
    return [rows[start : start + shard_rows] for start in range(0, len(rows), shard_rows)]


def new_part(source: Source, data: str, first: int) -> dict[str, Any]:
    """The entry of a source in a manifest's parts."""
    root = None if source.root is None else str(source.root)
    return {"data": data, "root": root, "stream": source.streamed, "first": first, "rows": source.length}


def check_content(folder: Path, manifest: Manifest, content: Mapping[str, Any]) -> None:
    """ValueError if the store's values are not what `content` says."""
    for name, value in json.loads(json.dumps(dict(content))).items():
        held = manifest.get(name)
        if held != value:
            if isinstance(held, dict) and isinstance(value, dict) and list(held) != list(value):
                held, value = list(held), list(value)
            raise ValueError(
                f"{folder} holds other {manifest['kind']}: its {name} is {_short(held)}, now {_short(value)}. "
                "Give another folder, or remove that one to make it again"
            )


def _short(value: Any) -> str:
    text = "none" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:200]}…"


def _checksum(manifest: Mapping[str, Any]) -> str:
    content = {name: value for name, value in manifest.items() if name != "checksum"}
    return hash_bytes(json.dumps(content, sort_keys=True).encode())[:16]


def _anew(folder: Path, made_by: str) -> str:
    return f"Remove {folder} and make it anew with {made_by}"
