"""Kill long work at random moments, go on with it, and compare with work that was left alone.

`python -m tests.kill --kills 300` kills extraction, an append, tokenizing, the pixel cache, the building and the growth
of indexes, a training and a suite of benchmarks, in equal parts, with SIGKILL. In the end every folder must hold the
same bytes as one that was never killed, and no file more. Exit status 1 if one does not.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from tests.kill.jobs import JOBS, Job, copy, make_inputs

IN_A_ROW = 4  # kills of one folder before it may end


@dataclass
class Count:
    """What came of the kills of one kind of work.

    kills: of a process at work. lost: folders that could not be finished, or lack a file. left over: files more than in
    a folder that was never killed. differing: files with other bytes.
    """

    kills: int = 0
    folders: int = 0
    lost: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        faults = {"lost": self.lost, "left over": self.left_over, "of other bytes": self.differing}
        text = ", ".join(f"{len(found)} {name}" for name, found in faults.items())
        named = "".join(f"\n    {name}: {one}" for name, found in faults.items() for one in found[:5])
        return f"{self.kills} kills of {self.folders} folders: {text}{named}"


def start(work: object, inputs: Path, folder: Path) -> BaseProcess:
    """The work in a process of its own; forked, since imports of PyTorch would take most of the time."""
    process = multiprocessing.get_context("fork").Process(target=_quietly, args=(work, inputs, folder))
    process.start()
    return process


def _quietly(work: object, inputs: Path, folder: Path) -> None:
    torch.set_num_threads(1)
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    if "KILL_LOUD" not in os.environ:
        os.dup2(sink, 2)
    assert callable(work)
    work(inputs, folder)


def finished(work: object, inputs: Path, folder: Path) -> bool:
    """Run the work to its end; whether that was a good one."""
    process = start(work, inputs, folder)
    process.join()
    return process.exitcode == 0


def kill(job: Job, inputs: Path, folder: Path, kills: int, moments: random.Random) -> Count:
    """Kill that many processes at work, some in one folder after the other, and compare every folder."""
    count, before, whole = Count(), folder / "before", folder / "whole"
    assert finished(job.begin, inputs, before)
    copy(before, whole)
    began = time.monotonic()
    assert finished(job.run, inputs, whole), "the work fails when it is left alone: KILL_LOUD=1 shows why"
    seconds, expected = time.monotonic() - began, job.contents(whole)
    while count.kills < kills:
        here = folder / str(count.folders)
        copy(before, here)
        for _ in range(min(IN_A_ROW, kills - count.kills)):
            process = start(job.run, inputs, here)
            process.join(moments.uniform(0, seconds))
            count.kills += process.is_alive()
            process.kill()
            process.join()
        compare(job, inputs, here, expected, count)
        shutil.rmtree(here, ignore_errors=True)
    return count


def compare(job: Job, inputs: Path, folder: Path, expected: dict[str, bytes], count: Count) -> None:
    """Let the work come to its end, and count what is not as it should be."""
    count.folders += 1
    if not finished(job.run, inputs, folder):
        count.lost.append(f"{folder.name} cannot be finished")
        return
    found = job.contents(folder)
    count.lost += [f"{folder.name}/{name}" for name in sorted(expected.keys() - found.keys())]
    count.left_over += [f"{folder.name}/{name}" for name in sorted(found.keys() - expected.keys())]
    shared = sorted(found.keys() & expected.keys())
    count.differing += [f"{folder.name}/{name}" for name in shared if found[name] != expected[name]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=300, help="of all kinds of work together")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    args = parser.parse_args()
    kills, faults = 0, 0
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["RANDAR_CACHE"] = f"{temporary}/cache"
        inputs = Path(temporary) / "inputs"
        assert finished(lambda folder, _: make_inputs(folder), inputs, inputs)
        for name in args.jobs:
            moments = random.Random(f"{args.seed}:{name}")
            each = -(-args.kills // len(args.jobs))
            count = kill(JOBS[name], inputs, Path(temporary) / name, each, moments)
            print(f"{name}: {count}", flush=True)
            kills += count.kills
            faults += len(count.lost) + len(count.left_over) + len(count.differing)
    print(f"{kills} kills, {faults} faults")
    raise SystemExit(1 if faults else 0)


if __name__ == "__main__":
    main()
