"""humanward on one job: the stages up to align that its algorithm needs. evaluate.py is for everybody.

python benchmarks/peers/ours.py CONFIG.toml RUN_DIRECTORY
"""

from __future__ import annotations

import sys
from pathlib import Path

from humanward.config import load_config
from humanward.progress import Reporter
from humanward.run_dir import open_run
from humanward.stages.context import Run
from humanward.stages.loop import STAGES, needed


def main() -> None:
    """Run the stages in order."""
    config, folder = (Path(word) for word in sys.argv[1:])
    loaded = load_config(config)
    run = Run(open_run(folder, loaded), Reporter())
    for name in needed(loaded):
        STAGES[name](run)
        if name == "align":
            return


if __name__ == "__main__":
    main()
