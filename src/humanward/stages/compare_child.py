"""One run of a comparison in a process of its own, so that its seconds and its peak memory are its own.

    python -m humanward.stages.compare_child '{"folder": ..., ...}'

Ends with 0, or 130 when it was stopped, or 1 with the reason in the file of facts, which also has its peak memory.
"""

from __future__ import annotations

import _thread
import json
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from humanward.errors import InputError


@dataclass(frozen=True)
class Task:
    """What a child does: ``stages`` of the run in ``folder`` that have not finished, or all and its report when empty.

    ``facts``: the file that receives what only the child knows. ``attended``: it is stopped by Ctrl-C itself and may
    ask on the terminal; otherwise it stops as soon as its standard input ends, which it does with its parent.
    """

    folder: str
    facts: str
    stages: tuple[str, ...] = ()
    reproduce: str = ""
    quiet: bool = False
    attended: bool = False

    def command(self) -> list[str]:
        """The child's command line."""
        return [sys.executable, "-W", "ignore", "-m", "humanward.stages.compare_child", json.dumps(asdict(self))]


def work(task: Task) -> dict[str, Any]:
    """Run the stages; returns ``threads`` and ``peak_gpu_gigabytes``."""
    import torch

    from humanward.progress import Reporter
    from humanward.run_dir import open_run
    from humanward.stages.context import Run
    from humanward.stages.loop import STAGES, check_sources, run_loop

    run = Run(open_run(Path(task.folder), None), Reporter(quiet=task.quiet))
    if not task.stages:
        run_loop(run, reproduce=task.reproduce)
    else:
        finished = run.folder.stages()
        check_sources(run)
        for name in task.stages:
            if name in finished:
                continue
            finished = {}  # whatever came after an unfinished stage is out of date
            STAGES[name](run)
    used = torch.cuda.is_available() and torch.cuda.is_initialized()
    return {
        "threads": torch.get_num_threads(),
        "peak_gpu_gigabytes": torch.cuda.max_memory_allocated() / 1e9 if used else None,
    }


def main() -> None:
    """Do the task on the command line."""
    task = Task(**json.loads(sys.argv[1]))
    warnings.filterwarnings("ignore")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts with it ignored
    facts: dict[str, Any] = {}
    code = 0
    try:
        if not task.attended:
            threading.Thread(target=_stop_with_the_parent, daemon=True).start()
        facts = work(task)
    except KeyboardInterrupt:
        code = 130
    except InputError as error:
        facts, code = {"error": " ".join(str(error).split()), "input": True}, 1
    except Exception as error:
        traceback.print_exc()
        first = (str(error).strip().splitlines() or [""])[0]
        facts, code = {"error": f"{type(error).__name__}: {first}", "input": False}, 1
    Path(task.facts).write_text(json.dumps({**facts, "peak_gigabytes": peak_gigabytes()}), encoding="utf-8")
    sys.exit(code)


def peak_gigabytes() -> float | None:
    """The largest resident set of this process so far, in 10^9 bytes; None where the system does not say.

    Linux counts what the parent held at the fork into ru_maxrss, but not into VmHWM.
    """
    try:
        text = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(text.split("VmHWM:")[1].split()[0]) * 1024 / 1e9
    except (OSError, IndexError):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    # Bytes on macOS, kilobytes elsewhere.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def _stop_with_the_parent() -> None:
    while os.read(0, 1024):
        pass
    while True:
        _thread.interrupt_main()
        # One that arrives inside a callback or an extension's import is swallowed there; tidying up takes less.
        time.sleep(5)


if __name__ == "__main__":
    main()
