"""Memory that an update frees is kept for the next one; where it is very short, it goes back to the system at once."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass

import psutil

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -2, -3, -4  # malloc.h of glibc
KEEP_BYTES = 2**31 - 1
PAD_BYTES = 64 * 2**20
OWN_MAPPING_BYTES = 2**18  # blocks from here on are mapped and unmapped one by one where memory is given back
MAPPINGS = 2**16 - 2**12  # at once; Linux allows 65530 a process


@dataclass(frozen=True, slots=True)
class Freed:
    """What becomes of freed memory on a CPU. `keeps`: it stays for the next tensors, which is faster. `most_gib`: of
    the whole process; when it has more, what lies free goes back, because memory is short."""

    keeps: bool = True
    most_gib: float | None = None

    @property
    def is_short(self) -> bool:
        return not self.keeps or self.most_gib is not None

    @property
    def word(self) -> str:
        return "returned" if not self.keeps else "kept" if self.most_gib is None else "trimmed"

    def set_up(self) -> None:
        """For the whole process, from now on."""
        if self.keeps:
            keep_freed_memory()
        else:
            give_back_freed_memory()

    def tidy(self) -> None:
        """Behind each piece of work."""
        if self.most_gib is not None and held_gib() > self.most_gib:
            trim_freed_memory()


KEPT, RETURNED = Freed(), Freed(keeps=False)


def held_gib() -> float:
    """By this process, of the machine's memory."""
    return psutil.Process().memory_info().rss / 2**30


def keep_freed_memory() -> bool:
    """Tell glibc's allocator to serve large blocks from its heap and to give nothing back. True where it was told.

    By default every large tensor is a fresh mapping whose pages the kernel clears on first touch: a tenth to a fifth of
    an update's time on a CPU. Other allocators and systems are left as they are.
    """
    return told((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, KEEP_BYTES), (M_TOP_PAD, PAD_BYTES))


def give_back_freed_memory() -> bool:
    """Tell it the contrary: what a tensor took goes back when it is freed. True where it was told.

    Kept memory is never cut to measure: a run of about 1 GiB of tensors was seen to take 3.5 GiB. The likely cause:
    aligned blocks, which do not fit their like again (glibc before 2.38). Given back, it takes what its tensors take.
    """
    is_told = told(
        (M_MMAP_MAX, MAPPINGS), (M_MMAP_THRESHOLD, OWN_MAPPING_BYTES), (M_TRIM_THRESHOLD, 2**20), (M_TOP_PAD, 0)
    )
    trim_freed_memory()
    return is_told


def trim_freed_memory() -> None:
    """What lies free goes back now, from the heap's middle too; what is freed later is kept as before."""
    libc = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
    if libc is not None and hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def told(*settings: tuple[int, int]) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):  # musl
        return False
    done = [libc.mallopt(ctypes.c_int(key), ctypes.c_int(value)) == 1 for key, value in settings]
    return all(done)
