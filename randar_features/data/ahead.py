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

    The caller's thread, perhaps the only one that can read the items, reads the next item and uses the last one
    meanwhile. If reading fails, the items before are given first. The work has the caller's gradient mode, but not its
    autocast.
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
    """Copy tensors to the CPU: the copies start now, and the function returned waits for them."""
    here = {name: value.to("cpu", non_blocking=True) for name, value in values.items()}
    devices = {value.device for value in values.values() if value.is_cuda}
    copied = [torch.cuda.current_stream(device).record_event() for device in devices]

    def wait() -> dict[str, Tensor]:
        for event in copied:
            event.synchronize()
        return here

    return wait


def sent(values: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device; a copy to a GPU goes on in the background."""
    if device.type != "cuda" or values.is_cuda:
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)
