"""Reads the next batch while one is computed."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

Item = TypeVar("Item")
Made = TypeVar("Made")


def ahead(work: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[tuple[Item, Made]]:
    """Each item, in order, with what `work` makes of it in a thread of its own.

    While an item is worked on, the next is read in the caller's thread, and what the caller does with an item goes on
    beside the work on the next. Items stay with the thread of the caller, which may be the only one that can read
    them. Where reading fails, what was read before is given first. The work has the caller's gradient mode, and none
    of its autocast.
    """
    iterator, failure = iter(items), None
    grad = torch.is_grad_enabled()

    def made(item: Item) -> Made:
        with torch.set_grad_enabled(grad):
            return work(item)

    with ThreadPoolExecutor(1) as pool:
        before = None
        for_more = True
        while for_more:
            try:
                item = next(iterator)
                now = item, pool.submit(made, item)
            except StopIteration:
                for_more, now = False, None
            except Exception as error:
                for_more, now, failure = False, None, error
            if before is not None:
                yield before[0], before[1].result()
            before = now
    if failure is not None:
        raise failure


def fetched(values: Mapping[str, Tensor]) -> Callable[[], dict[str, Tensor]]:
    """Bring tensors to the processor: the copies start now, and what is called for them waits until they are done."""
    here = {name: value.to("cpu", non_blocking=True) for name, value in values.items()}
    devices = {value.device for value in values.values() if value.is_cuda}
    copied = [torch.cuda.current_stream(device).record_event() for device in devices]

    def wait() -> dict[str, Tensor]:
        for event in copied:
            event.synchronize()
        return here

    return wait


def sent(values: Tensor, device: torch.device) -> Tensor:
    """What is in memory, on a device; the copy to a GPU goes on while the caller does other things."""
    if device.type != "cuda" or values.is_cuda:
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)
