"""Free memory as the system states it; a cgroup's limit counts, whichever version it has."""

from __future__ import annotations

from pathlib import Path

import pytest

from humanward.models import machine

STATUS = "Name: x\nVmRSS:\t  2000 kB\n"


def files(root: Path, values: dict[str, str]) -> None:
    for name, text in values.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(machine, "PROC", tmp_path / "proc")
    monkeypatch.setattr(machine, "CGROUPS", tmp_path / "cgroup")
    files(tmp_path, {"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable: 5000 kB\n", "proc/self/status": STATUS})
    return tmp_path


def test_what_the_system_has_left(system: Path) -> None:
    assert machine.available_memory() == 5000 * 1024
    assert machine.resident() == 2000 * 1024


def test_a_limit_of_cgroups_v2(system: Path) -> None:
    files(
        system,
        {
            "proc/self/cgroup": "0::/pod/box\n",
            "cgroup/pod/memory.max": "3000000\n",
            "cgroup/pod/memory.current": "2000000\n",
            "cgroup/pod/memory.stat": "anon 5\ninactive_file 300000\nactive_file 100000\n",
            "cgroup/pod/box/memory.max": "max\n",
            "cgroup/pod/box/memory.current": "100\n",
        },
    )
    assert machine.available_memory() == 1_400_000


def test_a_limit_of_cgroups_v1(system: Path) -> None:
    files(
        system,
        {
            "proc/self/cgroup": "4:memory:/box\n3:cpuset:/\n",
            "cgroup/memory/box/memory.limit_in_bytes": "1000000\n",
            "cgroup/memory/box/memory.usage_in_bytes": "900000\n",
            "cgroup/memory/box/memory.stat": "inactive_file 7\ntotal_inactive_file 50000\ntotal_active_file 0\n",
        },
    )
    assert machine.available_memory() == 150_000


def test_unknown_where_nothing_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "PROC", tmp_path)
    assert machine.available_memory() is None
    assert machine.resident() == 0
