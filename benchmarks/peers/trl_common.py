"""What the runners of TRL share. Runs in a peer's virtual environment: imports transformers and PEFT, never humanward.

    PEER_VENV/bin/python trl_ppo.py JOB.json

A job is a JSON object (``run.py: peer_job`` writes it). A runner writes into ``job["out"]`` the adapter, in
PEFT's format, and ``metrics.json``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

LIBRARIES = ("trl", "transformers", "torch", "peft", "accelerate", "datasets")
PROBES = 8


def read_job() -> dict[str, Any]:
    """The job named on the command line."""
    return json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))


def load_policy(job: dict[str, Any]) -> tuple[Any, Any]:
    """(model in float32, its tokenizer)."""
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(job["model"], local_files_only=True)
    return model, tokenizer


def lora(job: dict[str, Any]) -> LoraConfig:
    """The adapter that every implementation trains."""
    s = job["settings"]
    return LoraConfig(
        r=s["lora_rank"], lora_alpha=s["lora_alpha"], target_modules="all-linear", lora_dropout=0.0, bias="none",
        task_type="CAUSAL_LM",
    )  # fmt: skip


def peft_policy(job: dict[str, Any]) -> tuple[Any, Any]:
    """(model with a new adapter drawn from the job's seed, tokenizer)."""
    model, tokenizer = load_policy(job)
    torch.manual_seed(job["seed"])
    return get_peft_model(model, lora(job)), tokenizer


class TextReward:
    """Scores a response's text by one logit of the anchored classifier, as humanward does."""

    def __init__(self, job: dict[str, Any]) -> None:
        path = job["reward"]
        self.model = AutoModelForSequenceClassification.from_pretrained(
            path, dtype=torch.float32, local_files_only=True
        )
        self.model.eval().requires_grad_(False)
        self.tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        self.label = {name: int(i) for i, name in self.model.config.id2label.items()}[job["label"]]
        self.limit = min(self.model.config.max_position_embeddings, self.tokenizer.model_max_length)
        self.probes: list[dict[str, Any]] = []

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        """(B,) scores; the first few are kept, so that the driver can check them against humanward's own."""
        batch = self.tokenizer(
            list(texts), padding=True, padding_side="right", truncation=True, max_length=self.limit, return_tensors="pt"
        )
        logits = self.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        scores = logits[:, self.label].float()
        for text, score in zip(texts, scores.tolist(), strict=True):
            if len(self.probes) < PROBES:
                self.probes.append({"text": text, "score": score})
        return scores


def conversations(job: dict[str, Any]) -> Dataset:
    """The training prompts as conversations of one user turn."""
    return Dataset.from_list([{"prompt": [{"role": "user", "content": text}]} for text in job["prompts"]])


def function_reward(job: dict[str, Any]) -> tuple[TextReward, Callable[..., list[float]]]:
    """(the scorer, the same as a reward function of TRL's online trainers)."""
    score = TextReward(job)

    def reward(completions: list[list[dict[str, str]]], **_: Any) -> list[float]:
        return score([completion[0]["content"].strip() for completion in completions]).tolist()

    return score, reward


def training_arguments(job: dict[str, Any]) -> dict[str, Any]:
    """What all of TRL's configurations take alike: float32 on the CPU, AdamW without decay, a linear schedule to 0."""
    s = job["settings"]
    return {
        "output_dir": str(Path(job["out"]) / "trainer"),
        "seed": job["seed"],
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "learning_rate": s["learning_rate"],
        "lr_scheduler_type": "linear",
        "warmup_steps": 0,
        "weight_decay": 0.0,
        "adam_epsilon": s["adam_epsilon"],
        "max_grad_norm": s["max_gradient_norm"],
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
    }


class StepCounter:
    """Counts the optimizer steps that really happened."""

    def __init__(self, optimizer: Any) -> None:
        self.count = 0
        # accelerate wraps the optimizer and skips its step while gradients accumulate; the inner one tells.
        inner = getattr(optimizer, "optimizer", optimizer)
        step = inner.step

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.count += 1
            return step(*args, **kwargs)

        inner.step = counted


def finish(job: dict[str, Any], model: Any, *, started: float, probes: list[dict[str, Any]], **facts: Any) -> None:
    """Write the adapter and metrics.json, the latter last: a job is finished when it is there."""
    out = Path(job["out"])
    model.save_pretrained(str(out / "adapter"), safe_serialization=True, save_embedding_layers=False)
    found = {
        "seconds": round(time.perf_counter() - started, 2),
        "versions": {name: version(name) for name in LIBRARIES},
        "probes": probes,
        **facts,
    }
    temporary = out / ".metrics.json.tmp"
    temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    temporary.replace(out / "metrics.json")
