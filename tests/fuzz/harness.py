"""Run readers on damaged files in a process that may crash or hang, and say how each ended."""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import shutil
import signal
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from randar_features.data.decode.decoding import read_pixels
from tests.fuzz.formats import FORMATS, SECRET, SIZE, Format, digest, secret_picture
from tests.fuzz.mutations import mutate

CPU_SECONDS = 20  # of one input, before it counts as a hang
WALL_SECONDS = 120
MEMORY = 4 << 30  # bytes that one worker may take beyond what it starts with
GOOD = ("same", "other", "refused")
FAULTS = ("traceback", "unnamed", "several lines", "hang", "crash", "accepted", "escape")


class Outcome(NamedTuple):
    """How the reading of an input ended: one of `GOOD` or `FAULTS`, and what it said.

    same: as if nothing had been done. other: something else was read, and no checksum could tell. refused: one line
    that names the file. accepted: something else was read though a checksum tells. escape: what is not in the folder
    was read.
    """

    kind: str
    input: str
    detail: str


class HangError(BaseException):
    """An input took too long; readers that catch `Exception` do not catch it."""


def run(names: Sequence[str], inputs: int, seed: int, folder: Path) -> Iterator[Outcome]:
    """Outcomes of inputs 0 to `inputs` − 1 of each format, in order."""
    context = multiprocessing.get_context("fork")
    for name in names:
        number = 0
        while number < inputs:
            ours, theirs = context.Pipe(duplex=False)
            work = folder / f"{name}-{number}"
            worker = context.Process(target=_work, args=(theirs, name, range(number, inputs), seed, work))
            worker.start()
            theirs.close()
            for outcome in _received(ours):
                number += 1
                yield outcome
            worker.kill()
            worker.join()
            shutil.rmtree(work, ignore_errors=True)
            if number < inputs:
                kind = "hang" if worker.exitcode == -signal.SIGKILL else "crash"
                yield Outcome(kind, f"{name}:{seed}:{number}", f"the process ended with {worker.exitcode}")
                number += 1


def _received(ours: Connection) -> Iterator[Outcome]:
    try:
        while ours.poll(WALL_SECONDS):
            yield Outcome(*ours.recv())
    except EOFError:
        return


def _work(pipe: Connection, name: str, numbers: range, seed: int, folder: Path) -> None:
    kind = FORMATS[name]
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 2)  # libraries in C complain there of every damaged file; progress bars write there too
    folder, clean = prepare(kind, folder)
    limit = _address_space() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in numbers:
        pipe.send(tuple(try_input(kind, folder, clean, f"{name}:{seed}:{number}")))


def prepare(kind: Format, folder: Path) -> tuple[Path, Any]:
    """A whole one in a folder of `folder`, and what its reader gives; beside it lies a picture that is not of it."""
    data = folder / "data"
    data.mkdir(parents=True)
    secret_picture().save(folder / SECRET)
    kind.make(data)
    return data, kind.read(data)


def try_input(kind: Format, folder: Path, clean: Any, name: str) -> Outcome:
    """Damage one file of a format, read, and put the file back."""
    chance = random.Random(name)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and kind.damages(path.relative_to(folder)))
    path = chance.choice(files)
    content = path.read_bytes()
    way, damaged = mutate(content, path, chance)
    about = f"{name} {way} {path.relative_to(folder)}"
    path.write_bytes(damaged)
    if kind.forge is None or chance.random() < 0.5:
        try:
            return _outcome(kind, folder, clean, about, sealed=kind.seals(path, way) and damaged != content)
        finally:
            path.write_bytes(content)
    whole = folder.with_name("whole")
    shutil.rmtree(whole, ignore_errors=True)
    path.write_bytes(content)
    shutil.copytree(folder, whole)
    path.write_bytes(damaged)
    kind.forge(folder, path)
    try:
        return _outcome(kind, folder, clean, f"{about}, forged", sealed=False)
    finally:
        shutil.rmtree(folder)
        whole.rename(folder)


def _outcome(kind: Format, folder: Path, clean: Any, about: str, sealed: bool) -> Outcome:
    def alarm(*_: Any) -> None:
        raise HangError

    signal.signal(signal.SIGPROF, alarm)
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = kind.read(folder)
    except HangError:
        return Outcome("hang", about, traceback.format_exc(limit=-4))
    except Exception as error:
        return Outcome(*_told(error, about, folder))
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    if secret() in repr(found):
        return Outcome("escape", about, repr(found))
    if found == clean:
        return Outcome("same", about, "")
    return Outcome("accepted" if sealed else "other", about, "")


@cache
def secret() -> str:
    """What a reader of images gives of the picture that lies beside the folder."""
    return digest(read_pixels(secret_picture(), SIZE)[0])


def _told(error: Exception, about: str, folder: Path) -> tuple[str, str, str]:
    """Whether an error is one line that names a file of the folder, of a type that a command explains."""
    said = str(error)
    if not isinstance(error, ValueError | OSError) or not _is_ours(error):
        return "traceback", about, "".join(traceback.format_exception(error, limit=-6))
    if "\n" in said.strip():
        return "several lines", about, said
    named = str(folder) in said or any(path.name in said for path in folder.rglob("*") if path.is_file())
    return "refused" if named else "unnamed", about, f"{type(error).__name__}: {said}"


def _is_ours(error: Exception) -> bool:
    """A type of Python's own or of this project, not one of a library's, whose text is for its authors."""
    return type(error).__module__.partition(".")[0] in ("builtins", "randar_features", "probes", "benchmarks")


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def counts(outcomes: Sequence[Outcome]) -> Counter[str]:
    return Counter(outcome.kind for outcome in outcomes)
