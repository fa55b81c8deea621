from __future__ import annotations

import sys

import pytest
import torch

from randar_features.training.distributed import keep_freed_memory
from tests.training.small import FRESH


def new_pages() -> int:
    """How many pages large buffers take that are made one after the other."""
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(6):
        torch.ones(9_000_000)  # beyond what the library takes from memory that it holds, 32 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def pages_without_and_with() -> tuple[int, bool, int]:
    without, available = new_pages(), keep_freed_memory()
    new_pages()  # now there are pages that are kept
    return without, available, new_pages()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks the GNU C library")
def test_buffers_of_the_same_size_share_their_pages() -> None:
    with FRESH.Pool(1) as pool:
        without, available, kept = pool.apply(pages_without_and_with)
    if not available:
        pytest.skip("another C library")
    # Where some bytes were taken beside a freed buffer, the next one, aligned, may just not fit, and takes new pages.
    # No count of bytes is compared, for pages may be large ones.
    assert without > 0
    assert kept < without / 2
