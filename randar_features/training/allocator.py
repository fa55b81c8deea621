"""Memory that one step frees is there for the next."""

from __future__ import annotations

import ctypes
import sys

# Of malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Have the C library keep what this process frees; False where it is not the GNU one.

    Otherwise every large buffer of a step on a CPU is given back to the system and comes anew, page after page
    filled with zeros, in the next: 5 to 8 % of a step of RandAR-L's width. In exchange the process stays as
    large as it once was, and grows by some percent through gaps.
    """
    if not sys.platform.startswith("linux"):
        return False
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is None:
        return False
    never = -1
    return all([set_option(M_MMAP_MAX, 0), set_option(M_TRIM_THRESHOLD, never), set_option(M_TOP_PAD, 64 * 2**20)])
