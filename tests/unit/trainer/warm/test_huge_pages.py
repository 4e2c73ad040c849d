from __future__ import annotations

import mmap
import re
from pathlib import Path

from trainer.warm.huge_pages import collapse


def huge_kib() -> int:
    found = re.search(r"AnonHugePages: +(\d+) kB", Path("/proc/self/smaps_rollup").read_text())
    return int(found[1]) if found else 0


def test_what_is_held_gets_huge_pages_and_stays_as_it_is() -> None:
    """None where the kernel has no such call (Linux before 6.1)."""
    held = mmap.mmap(-1, 16 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    held[:] = bytes(range(256)) * (len(held) // 256)
    before = huge_kib()
    asked = collapse()
    assert asked == 0 or huge_kib() - before >= 14 << 10
    assert held[:] == bytes(range(256)) * (len(held) // 256)
