"""How much memory building an index takes, known before it begins."""

import math
from pathlib import Path

import psutil

from probes.index.settings import KINDS, IndexSettings, choose_settings

FLOAT, ID = 4, 8  # bytes
TRAINING_COPIES = 4  # the sample, its normalised copy, faiss's subsample and the residuals
BLOCK_COPIES = 4  # as read, as float32, normalised, and residuals
CODEBOOK = 256  # rows of D numbers that the codes of all parts of a vector have together
TABLE_ROWS = 1024  # vectors that faiss encodes at once, where it makes a table of distances to all codes
WORK = 1 << 27  # bytes of products with centroids that faiss keeps, and of unused memory of allocators
GROWTH = 2  # lists grow by doubling
RESERVE = 1.05  # room for as many links as chance may ask for


class IndexMemoryError(MemoryError):
    """Building would take more memory than there is; nothing was built."""


def predict_memory(settings: IndexSettings, count: int, *, existing: int = 0) -> dict[str, int]:
    """Bytes that building an index of `count` vectors takes, by purpose; their sum is the peak.

    What the process holds before is not counted, nor are pages of memory-mapped files, which the system can take back.
    existing: vectors of an interrupted or earlier building, which are read whole before they are moved.
    """
    dim = settings.width
    parts = {
        "training sample": TRAINING_COPIES * settings.training_rows * settings.dim * FLOAT,
        "block": BLOCK_COPIES * settings.block_rows * settings.dim * FLOAT,
        "work": WORK,
    }
    if settings.kind == "ivfpq":
        parts["codes and ids"] = GROWTH * count * (settings.code_bytes + ID)
        parts["centroids"] = (settings.nlist + CODEBOOK) * dim * FLOAT
        parts["distances to codes"] = TABLE_ROWS * CODEBOOK * settings.code_bytes * FLOAT
        return parts
    parts["vectors"] = count * dim * FLOAT
    parts["links"] = count * link_bytes(settings)
    parts["vectors read back"] = existing * (dim * FLOAT + link_bytes(settings))
    return parts


def link_bytes(settings: IndexSettings) -> int:
    """Bytes of the graph for each vector: neighbours in the lowest layer and, for 1 in `M`, in those above.

    Also where they begin and the layers (doubling), a lock and a mark.
    """
    if settings.kind != "hnsw":
        return 0
    return FLOAT * reserved_links(settings) + GROWTH * (ID + FLOAT) + FLOAT + 1


def reserved_links(settings: IndexSettings) -> int:
    """Links for which a vector has room: 2·M below, and M / (M − 1) above, on average."""
    upper = settings.M / (settings.M - 1) if settings.M > 1 else 2.0
    return math.ceil((2 * settings.M + upper) * RESERVE)


def require_memory(settings: IndexSettings, count: int, limit: int | None = None, *, existing: int = 0) -> int:
    """The predicted peak of this process in bytes, including what it holds now.

    limit: bytes that the process may take; None: what it holds and what the machine has available.

    Raises:
        IndexMemoryError: the prediction is beyond the limit; the message has the number, its parts, and which
            kind would fit.
    """
    held = process_memory()
    limit = held + available_memory() if limit is None else limit
    parts = {"this process now": held, **predict_memory(settings, count, existing=existing)}
    needed = sum(parts.values())
    if needed > limit:
        listed = ", ".join(f"{name} {in_words(size)}" for name, size in parts.items() if size)
        raise IndexMemoryError(
            f"building a {settings.kind} index of {count} vectors of {settings.dim} numbers needs {in_words(needed)} "
            f"({needed} bytes: {listed}), and the limit is {in_words(limit)}. {_advice(settings, count, limit - held)}"
        )
    return needed


def _advice(settings: IndexSettings, count: int, room: int) -> str:
    smaller = []
    for kind in KINDS:
        try:
            other = choose_settings(
                count,
                settings.dim,
                kind=kind,
                normalization=settings.normalization,
                components=settings.components or None,
            )
        except ValueError:
            continue
        smaller.append((sum(predict_memory(other, count).values()), kind))
    needed, kind = min(smaller)
    if needed <= room and kind != settings.kind:
        return f"Choose {kind}, which needs {in_words(needed)} beside this process, or raise the limit"
    return "Raise the limit, or lower the rows of a block or of the training sample"


def in_words(size: int) -> str:
    """1234567 → "1.2 MB"."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"


def process_memory(peak: bool = False) -> int:
    """Bytes of this process in memory now, or their peak so far (Linux; 0 if unknown)."""
    if not peak:
        return psutil.Process().memory_info().rss
    # Not getrusage's: that counts what the parent had, up to the start of this program.
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
        return 1024 * int(lines["VmHWM"].split()[0])
    except (OSError, KeyError):
        return 0


def available_memory() -> int:
    """Bytes that the machine and the limit of the control group still allow."""
    machine = psutil.virtual_memory().available
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):  # no such group, or "max": no limit
        return machine
    return min(machine, max(0, limit - used))
