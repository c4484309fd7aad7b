"""Make the peers' virtual environments, each from its pinned requirements; one that is complete is left as it is.

python benchmarks/peers/make_venvs.py --venvs ~/peer-venvs
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

from settings import FOR_SPEED, HERE, PEERS

TORCH = "torch==2.13.0"


def make(folder: Path, requirements: Path) -> bool:
    """Make one environment; False where it was complete before. A stop in between leaves it to be finished."""
    done = folder / ".requirements.txt"
    wanted = requirements.read_text(encoding="utf-8")
    if done.exists() and done.read_text(encoding="utf-8") == wanted:
        return False
    if not (folder / "bin" / "python").exists():
        venv.create(folder, with_pip=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "-qq"]
    # torch alone first: what needs torch then finds it, and brings no other build.
    subprocess.run([*pip, TORCH], check=True)
    subprocess.run([*pip, "-r", str(requirements)], check=True)
    done.write_text(wanted, encoding="utf-8")
    return True


def main(arguments: Sequence[str] | None = None) -> None:
    """Make all of them, with the Python that runs this (3.11 is what was measured)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venvs", type=Path, required=True, help="folder for the environments, about 1.5 GB each")
    venvs = parser.parse_args(arguments).venvs.expanduser().resolve()
    if venvs.is_relative_to(HERE.parents[1]):
        raise SystemExit(f"--venvs {venvs}: is inside the repository; choose a folder outside it")
    for peer in (*PEERS, *FOR_SPEED):
        made = make(venvs / peer, HERE / f"requirements-{peer}.txt")
        print(f"{venvs / peer}: {'made' if made else 'complete'}", file=sys.stderr)


if __name__ == "__main__":
    main()
