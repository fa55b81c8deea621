"""How far a training is: a bar on a terminal; elsewhere lines with step, loss, speed and expected end."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from datetime import datetime, timedelta

from tqdm.auto import tqdm

LINE_SECONDS = 30.0  # between two lines
FIRST_SECONDS = 5.0  # before the first, so that it can tell an end

logger = logging.getLogger(__name__)


class Progress:
    """Shows the steps of one stage of a training.

    Args:
        stage: its name.
        step: steps done before.
        total: steps in all.
        seconds: the time limit of this call; None: there is none.
        active: False on all processes but the main one: nothing is shown.
    """

    def __init__(self, stage: str, step: int, total: int, *, seconds: float | None, active: bool) -> None:
        self.stage, self.first, self.step, self.total = stage, step, step, total
        self.bar = tqdm(
            total=total, initial=step, desc=stage, unit="step", dynamic_ncols=True, disable=None if active else True
        )
        self.lines = active and bool(self.bar.disable)
        self.begin = time.perf_counter()
        self.deadline = None if seconds is None else self.begin + seconds
        self.next_line = self.begin + FIRST_SECONDS
        self.figures: dict[str, float] = {}
        if self.lines:
            logger.info("%s: %d of %d steps are done", stage, step, total)

    def advance(self, figures: Mapping[str, float]) -> None:
        """Another step is done, with these figures, `loss` among them."""
        self.step += 1
        self.bar.update()
        self.figures = dict(figures)
        now = time.perf_counter()
        if self.lines and (now >= self.next_line or self.step == self.total):
            self.next_line = now + LINE_SECONDS
            logger.info("%s", self.line(now))

    def show(self, figures: Mapping[str, float]) -> None:
        """Figures that are logged at this step."""
        self.bar.set_postfix({name: f"{value:.4g}" for name, value in figures.items()})

    def line(self, now: float) -> str:
        """Step, loss, speed and end; whether the time limit comes first, and what is then left."""
        speed = (self.step - self.first) / max(now - self.begin, 1e-9)
        loss = f", loss {self.figures['loss']:.4g}" if "loss" in self.figures else ""
        line = f"{self.stage}: step {self.step} of {self.total}{loss}, {speed:.3g} steps a second"
        if self.step == self.total:
            return f"{line}, done in {spoken(now - self.begin)}"
        left = (self.total - self.step) / speed
        if self.deadline is None or left <= self.deadline - now:
            end = datetime.now() + timedelta(seconds=left)
            return f"{line}, done in {spoken(left)}, at {end:%H:%M}"
        stays = max(self.deadline - now, 0)
        return f"{line}; the time limit comes in {spoken(stays)}, {spoken(left - stays)} before the end of this stage"

    def close(self) -> None:
        """Leave the bar as it is."""
        self.bar.close()


def spoken(seconds: float) -> str:
    """A time as one says it: "40 s", "12 min", "2 h 20 min"."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
