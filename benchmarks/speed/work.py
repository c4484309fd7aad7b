"""The work that every side of benchmarks/ppo_speed.py does: models of random weights, prompts, sizes, and the meters.

Runs in each side's own virtual environment (transformers 4.45 to 5), so it names no option that one of them lacks.
"""

from __future__ import annotations

import gc
import json
import os
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from memory_shapes import prompt_of, tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

VOCABULARY = 4096
SHAPES: dict[str, dict[str, int]] = {
    "micro": {
        "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128, "num_attention_heads": 2,
        "num_key_value_heads": 2,
    },
    "tiny": {
        "hidden_size": 256, "num_hidden_layers": 6, "intermediate_size": 704, "num_attention_heads": 4,
        "num_key_value_heads": 4,
    },
    "small": {
        "hidden_size": 576, "num_hidden_layers": 12, "intermediate_size": 1536, "num_attention_heads": 9,
        "num_key_value_heads": 3,
    },
}  # fmt: skip
LORA = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear", "lora_dropout": 0.0}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Work:
    """One side's job. ``steps`` are measured, ``warmup`` steps before them are not; ``setting`` is the side's own."""

    model: str
    train: str
    dtype: str
    steps: int = 1
    warmup: int = 1
    episodes: int = 32
    response: int = 64
    shortest: int = 16
    longest: int = 48
    epochs: int = 4
    threads: int = 2
    seed: int = 0
    setting: str = ""
    out: str = ""
    device: str = "cpu"
    quantization: str = "none"
    vocabulary: int = VOCABULARY

    @classmethod
    def from_command_line(cls) -> Work:
        """The job given as JSON; PyTorch's threads are set by it."""
        work = cls(**json.loads(sys.argv[1]))
        torch.set_num_threads(work.threads)
        return work

    @property
    def reward_model(self) -> str:
        """The peers' reward and value models: a sequence classifier beside the model, or the model with a new head."""
        beside = Path(self.model) / "reward"
        return str(beside if beside.exists() else self.model)

    def to_json(self) -> str:
        """The job as a child's argument."""
        return json.dumps(asdict(self))

    def texts(self) -> list[str]:
        """A prompt for each episode of every step, of ``shortest`` to ``longest`` tokens."""
        lengths = random.Random(self.seed)
        count = self.episodes * (self.steps + self.warmup)
        return [prompt_of(row, lengths.randint(self.shortest, self.longest)) for row in range(count)]


def build(shape: str, folder: Path) -> Path:
    """The shape's language model and reward model, float32, in ``folder``; written once."""
    if not (folder / "done").exists():
        config = LlamaConfig(
            **SHAPES[shape], vocab_size=VOCABULARY, max_position_embeddings=2048, tie_word_embeddings=False,
            pad_token_id=VOCABULARY - 3, eos_token_id=VOCABULARY - 2, bos_token_id=None,
        )  # fmt: skip
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
        tokenizer(VOCABULARY).save_pretrained(folder)
        config.num_labels = 1
        LlamaForSequenceClassification(config).save_pretrained(folder / "reward")
        (folder / "done").touch()
    return folder


def trunk_weights(shape: str) -> int:
    """Weights that every token is multiplied with, the output matrix left out."""
    size = SHAPES[shape]
    width, heads = size["hidden_size"], size["num_attention_heads"]
    keys = width * size["num_key_value_heads"] // heads
    return size["num_hidden_layers"] * (2 * width * width + 2 * width * keys + 3 * width * size["intermediate_size"])


def floor_operations(shape: str, train: str, tokens: float, epochs: int) -> float:
    """Floating-point operations that an episode of so many tokens needs at least, with policy and critic on one trunk.

    2NT each for sampling, reference, old log-probabilities with values, and reward; then each epoch 6NT, or 4NT under
    LoRA, where the gradient of the frozen weights is left out.
    """
    return trunk_weights(shape) * tokens * (8 + epochs * (4 if train == "lora" else 6))


def status(name: str) -> int:
    """A line of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {name}")


class Meter:
    """Wall and CPU seconds by step and by phase, and the peak of memory above what was held at the start.

    Memory is the process's on the CPU and what PyTorch gave out on CUDA, where every reading of the clock waits.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.cuda = device.startswith("cuda")
        self.phases: dict[str, float] = {}
        self.wall: list[float] = []
        self.cpu: list[float] = []
        if self.cuda:
            torch.cuda.init()
            self.before = 0
            return
        with torch.autocast("cpu", dtype=torch.bfloat16):
            (torch.ones(64, 64, requires_grad=True) @ torch.ones(64, 64)).sum().backward()
        gc.collect()
        self.before = status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")

    def _now(self) -> float:
        if self.cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the block's seconds to a phase."""
        began = self._now()
        try:
            yield
        finally:
            self.phases[name] = self.phases.get(name, 0.0) + self._now() - began

    def start(self) -> None:
        """A step begins."""
        self._began = self._now(), time.process_time()

    def stop(self) -> None:
        """A step ends."""
        self.wall.append(self._now() - self._began[0])
        self.cpu.append(time.process_time() - self._began[1])

    def forget(self) -> None:
        """What was measured so far was warming up; memory is kept."""
        self.phases, self.wall, self.cpu = {}, [], []

    def report(self, **more: Any) -> None:
        """Print everything as one line of JSON."""
        peak = torch.cuda.max_memory_allocated() if self.cuda else status("VmHWM") - self.before
        found = {
            "wall": self.wall, "cpu": self.cpu, "phases": self.phases, "peak": peak,
            "versions": versions(), **more,
        }  # fmt: skip
        print(json.dumps(found), flush=True)


def versions() -> dict[str, str]:
    """The releases that matter, of those that are there."""
    found = {}
    for name in ("humanward", "trl", "torch", "transformers", "peft", "accelerate"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def products(dtype: torch.dtype, threads: int, seconds: float = 0.5) -> float:
    """Operations a second of large matrix products, 3584 x 256 x 256 as performance tables have them, best of many."""
    torch.set_num_threads(threads)
    left, right = torch.randn(3584, 256).to(dtype), torch.randn(256, 256).to(dtype)
    best, until = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < until:
        began = time.perf_counter()
        for _ in range(10):
            left @ right
        best = max(best, 10 * 2 * left.numel() * 256 / (time.perf_counter() - began))
    return best
