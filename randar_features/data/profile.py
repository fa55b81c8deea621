"""Where the time of an extraction goes."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch

PARTS = ("identify", "decode", "tokenize", "encode", "write")
ALL = "all"  # the whole of a job, which its parts overlap in


class Stopwatch:
    """Seconds that the parts of a job took, and images that went through each, by the part's name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.images: dict[str, int] = defaultdict(int)

    def add(self, name: str, seconds: float, images: int) -> None:
        """To a part."""
        self.seconds[name] += seconds
        self.images[name] += images

    def rates(self, workers: int = 0) -> dict[str, float]:
        """Images a second of each part while it works; `workers` processes share the decoding."""
        share = {"decode": max(workers, 1)}
        return {
            name: share.get(name, 1) * self.images[name] / max(spent, 1e-9)
            for name, spent in ((name, self.seconds.get(name, 0.0)) for name in PARTS)
            if self.images.get(name)
        }

    def report(self, workers: int = 0) -> str:
        """A line each part, and how fast all of them were together."""
        rates = self.rates(workers)
        lines = [f"{name:9s} {rate:9.1f} images/s  {self.seconds[name]:8.1f} s" for name, rate in rates.items()]
        if rates:
            slowest = min(rates, key=rates.__getitem__)
            together = self.images["write"] / max(self.seconds[ALL], 1e-9)
            lines.append(f"together  {together:9.1f} images/s  {self.seconds[ALL]:8.1f} s; slowest alone: {slowest}")
        return "\n".join(lines)


_running: list[Stopwatch] = []


@contextmanager
def watching() -> Iterator[Stopwatch]:
    """A stopwatch that `part` reports to, from all threads. On a GPU each part then waits for the device."""
    _running.append(Stopwatch())
    try:
        yield _running[-1]
    finally:
        _running.pop()


@contextmanager
def part(name: str, images: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """A part of a job, on a stopwatch if one runs."""
    if not _running:
        yield
        return
    start = time.perf_counter()
    yield
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    note(name, time.perf_counter() - start, images)


def note(name: str, seconds: float, images: int) -> None:
    """A part that was timed elsewhere, as in another process, to the stopwatch if one runs."""
    if _running:
        _running[-1].add(name, seconds, images)
