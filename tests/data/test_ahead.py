from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from randar_features.data.ahead import ahead, fetched
from randar_features.data.profile import ALL, Stopwatch, note, part, watching


def test_work_goes_on_while_the_next_item_is_read() -> None:
    """Each side waits for the other: it would hang if they took turns."""
    begun, read = threading.Event(), threading.Event()

    def items() -> Iterator[int]:
        yield 0
        assert begun.wait(20)  # work on 0 has begun before 1 is read
        read.set()
        yield 1

    def work(item: int) -> int:
        begun.set()
        assert read.wait(20)  # and ends after that
        return 10 * item

    assert list(ahead(work, items())) == [(0, 0), (1, 10)]


def test_items_stay_with_the_caller_and_the_work_with_one_thread() -> None:
    caller, threads = threading.current_thread(), set()

    def items() -> Iterator[int]:
        for number in range(4):
            assert threading.current_thread() is caller
            yield number

    found = [made for _, made in ahead(lambda _: threads.add(threading.current_thread()), items())]
    assert found == [None] * 4 and len(threads) == 1 and caller not in threads


def test_what_was_read_before_a_failure_is_given_first() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("the disk is gone")

    seen = []
    with pytest.raises(OSError, match="the disk is gone"):
        for item, _ in ahead(str, items()):
            seen.append(item)
    assert seen == [1, 2]
    with pytest.raises(ZeroDivisionError):
        list(ahead(lambda item: 1 // item, [1, 0, 1]))
    assert list(ahead(str, [])) == []


def test_the_work_has_the_callers_gradient_mode() -> None:
    with torch.no_grad():
        assert [made for _, made in ahead(lambda _: torch.is_grad_enabled(), [1])] == [False]
    assert [made for _, made in ahead(lambda _: torch.is_grad_enabled(), [1])] == [True]


def test_fetched_tensors_are_the_same() -> None:
    values = {"a": torch.arange(3.0)}
    assert torch.equal(fetched(values)()["a"], values["a"])


def test_a_report_by_hand() -> None:
    watch = Stopwatch()
    for name, seconds, images in (("decode", 8.0, 40), ("encode", 2.0, 40), ("write", 1.0, 40), (ALL, 5.0, 0)):
        watch.add(name, seconds, images)
    assert watch.rates(workers=2) == {"decode": 10, "encode": 20, "write": 40}
    last = watch.report(2).splitlines()[-1].split()
    assert last[:3] == ["together", "8.0", "images/s"] and last[-1] == "decode"


def test_parts_are_counted_only_while_somebody_watches() -> None:
    with part("decode", 3):
        note("write", 1.0, 2)
    with watching() as watch, part("decode", 3):
        note("write", 1.0, 2)
    assert watch.images == {"decode": 3, "write": 2} and watch.seconds["write"] == 1 and watch.seconds["decode"] >= 0
