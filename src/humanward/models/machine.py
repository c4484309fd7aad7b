"""The machine's processor and memory as this process may use them: cgroup limits count."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from pathlib import Path

PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def resident() -> int:
    """Bytes of memory that this process holds now; 0 where the system does not say (no /proc)."""
    return _kilobytes(PROC / "self" / "status", "VmRSS") or 0


def peak_resident() -> int:
    """The most memory that this process has held since ``reset_peak``, in bytes; 0 where the system does not say."""
    return _kilobytes(PROC / "self" / "status", "VmHWM") or 0


def reset_peak() -> None:
    """Let ``peak_resident`` begin anew, where the system lets a process do so (Linux)."""
    with suppress(OSError):
        (PROC / "self" / "clear_refs").write_text("5", encoding="utf-8")


def give_back() -> None:
    """Return the pages of freed tensors to the system, where the C library keeps them (glibc); a few milliseconds.

    Between a step's parts: what one of them has freed lies scattered, and the next would grow the heap around it.
    """
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)


def available_memory() -> int | None:
    """Bytes that this process can still take before the system runs out or a cgroup's limit is met; None: unknown."""
    found = [_kilobytes(PROC / "meminfo", "MemAvailable"), *_cgroups()]
    return min((free for free in found if free is not None), default=None)


def _kilobytes(file: Path, name: str) -> int | None:
    """A line ``name: N kB`` of a file of /proc, in bytes."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found = (line.split()[1] for line in lines if line.startswith(f"{name}:"))
    return next((int(number) * 1024 for number in found), None)


def _cgroups() -> list[int]:
    """What each limited cgroup above this process has left (versions 1 and 2); file pages can be given back."""
    try:
        lines = (PROC / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    left: list[int] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        root = CGROUPS if controllers == "" else CGROUPS / "memory"
        names = (
            ("memory.max", "memory.current")
            if controllers == ""
            else (
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
            )
        )
        # Inside a container the path is the host's: the root is then the group itself.
        for place in _upwards(root, path):
            limit, used = _number(place / names[0]), _number(place / names[1])
            if limit is not None and used is not None and limit < 1 << 60:
                left.append(max(0, limit - used + _file_pages(place / "memory.stat")))
    return left


def _upwards(root: Path, path: str) -> list[Path]:
    place = root / path.strip("/")
    return [root, *(one for one in (place, *place.parents) if one != root and one.is_relative_to(root))]


def _number(file: Path) -> int | None:
    """A file's whole number; None where there is no file or no limit ("max")."""
    try:
        text = file.read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def _file_pages(file: Path) -> int:
    try:
        rows = dict(line.split()[:2] for line in file.read_text(encoding="utf-8").splitlines())
    except OSError:
        return 0
    prefix = "total_" if "total_inactive_file" in rows else ""
    return sum(int(rows.get(f"{prefix}{name}", 0)) for name in ("inactive_file", "active_file"))
