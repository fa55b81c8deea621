from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import resource
import torch
from randar_features.training.distributed import keep_freed_memory

def new_pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(6):
        torch.ones(9_000_000)  # beyond what the library takes from memory that it holds, 32 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(new_pages())
print(keep_freed_memory())
print(new_pages())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks the GNU C library")
def test_buffers_of_the_same_size_share_their_pages() -> None:
    run = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    without, available, kept = run.stdout.split()
    if available == "False":
        pytest.skip("another C library")
    # Six buffers take new pages six times, kept ones once or twice: where a freed buffer lies behind some bytes that
    # were taken meanwhile, the next one, aligned, may just not fit, and a second place is made. No count of bytes is
    # compared, for pages may be large ones.
    assert int(without) > 0
    assert int(kept) < int(without) / 2
