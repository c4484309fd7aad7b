"""Where a reward model's training stopped, so that it goes on bitwise as if it had not."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

FACTS, WEIGHTS = "checkpoint.json", "checkpoint.safetensors"
MOMENTS = ("step", "exp_avg", "exp_avg_sq")


class Checkpoint:
    """A folder with the weights, the optimizer's state, the order of the prompts and the random numbers to come.

    Written at most every ``seconds`` and always after the last step, by another name first. ``identity`` says what is
    trained on what; a folder of another identity is not gone on with.
    """

    def __init__(self, folder: Path, identity: str, seconds: float) -> None:
        self.folder, self.identity, self.seconds = folder, identity, seconds
        self._written = time.monotonic()

    def due(self, last: bool) -> bool:
        """Whether it is time to write."""
        return last or time.monotonic() - self._written >= self.seconds

    def save(
        self,
        parameters: Sequence[nn.Parameter],
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator,
        order: Sequence[int],
        history: Sequence[Any],
    ) -> None:
        """The state after ``len(history)`` steps; what each step told is kept too."""
        tensors = {"generator": generator.get_state(), "order": torch.tensor(list(order), dtype=torch.int64)}
        for place, parameter in enumerate(parameters):
            tensors[f"weight.{place}"] = parameter.detach().cpu().contiguous()
            # What the score does not depend on (an output matrix) has no gradient, so the optimizer keeps nothing.
            for name in MOMENTS if optimizer.state.get(parameter) else ():
                tensors[f"{name}.{place}"] = optimizer.state[parameter][name].detach().cpu().contiguous()
        temporary = self.folder.with_name(f".{self.folder.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        save_file(tensors, temporary / WEIGHTS)
        (temporary / FACTS).write_text(json.dumps({"identity": self.identity, "history": list(history)}), "utf-8")
        shutil.rmtree(self.folder, ignore_errors=True)
        temporary.replace(self.folder)
        self._written = time.monotonic()

    def load(
        self, parameters: Sequence[nn.Parameter], optimizer: torch.optim.Optimizer, generator: torch.Generator
    ) -> tuple[list[int], list[Any]]:
        """Put the kept state into what is given; (order of the prompts, what each step told), empty without one."""
        file = self.folder / FACTS
        if not file.exists():
            return [], []
        facts = json.loads(file.read_text(encoding="utf-8"))
        if facts["identity"] != self.identity:
            return [], []
        tensors = load_file(self.folder / WEIGHTS)
        with torch.no_grad():
            for place, parameter in enumerate(parameters):
                parameter.copy_(tensors[f"weight.{place}"])
                if f"step.{place}" not in tensors:
                    continue
                state = {name: tensors[f"{name}.{place}"] for name in MOMENTS}
                # Adam counts its steps on the CPU, whatever the device of the weights.
                optimizer.state[parameter] = {
                    name: one if name == "step" else one.to(parameter.device) for name, one in state.items()
                }
        generator.set_state(tensors["generator"])
        return tensors["order"].tolist(), facts["history"]
