from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import resource
import torch
from randar_features.training.allocator import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(40_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
print(faults())
print(keep_freed_memory())
faults()
print(faults())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks the GNU C library")
def test_a_buffer_of_the_same_size_takes_no_new_pages() -> None:
    run = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    without, available, kept = run.stdout.split()
    if available == "False":
        pytest.skip("another C library")
    pages = 40_000_000 * 4 // 4096
    assert int(kept) < pages / 100
    # Pages may be large ones, and so few, but without it there are some each time.
    assert int(without) > int(kept)
