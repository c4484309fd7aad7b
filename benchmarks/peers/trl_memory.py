"""TRL 1.12's PPO on the shapes of benchmarks/memory.py: loads its models, takes two steps, prints the peak as JSON.

    PEER_VENV/bin/python trl_memory.py '{"model": FOLDER, "device": "cpu", "policy": "full", ...}'

``policy`` "full" has four models of their own, as TRL's example has them without PEFT: policy and value model trained
whole, reference and reward model frozen. "lora" is the same example with PEFT: the policy's adapter is trained and the
reference is the policy with its adapter off; value and reward model stay whole models. Everything is in bfloat16.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl.experimental.ppo import PPOConfig, PPOTrainer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from memory_shapes import prompt_of

STEPS = 2


def status(name: str) -> int:
    """A line of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {name}")


def main() -> None:
    """Load, train, print."""
    job: dict[str, Any] = json.loads(sys.argv[1])
    cuda, rows = job["device"].startswith("cuda"), job["rows"]
    if cuda:
        torch.cuda.init()
        before = torch.cuda.memory_allocated()
    else:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            (torch.ones(64, 64, requires_grad=True) @ torch.ones(64, 64)).sum().backward()
        gc.collect()
        before = status("VmRSS")

    def causal() -> Any:
        return AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.bfloat16, local_files_only=True)

    def scalar() -> Any:
        return AutoModelForSequenceClassification.from_pretrained(
            job["model"], num_labels=1, dtype=torch.bfloat16, local_files_only=True
        )

    tokenizer = AutoTokenizer.from_pretrained(job["model"], local_files_only=True, padding_side="left")
    policy, reference = causal(), None
    if job["policy"] == "lora":
        adapter = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", lora_dropout=0.0, task_type="CAUSAL_LM")
        policy = get_peft_model(policy, adapter)
    else:
        reference = causal()
    value, reward = scalar(), scalar()
    texts = [prompt_of(row, job["prompt"]) for row in range(rows * STEPS)]
    config = PPOConfig(
        output_dir=job["out"], seed=0, use_cpu=not cuda, bf16=False, gradient_checkpointing=False,
        learning_rate=1e-5, report_to="none", save_strategy="no", logging_steps=1, disable_tqdm=True,
        per_device_train_batch_size=rows, gradient_accumulation_steps=1, num_mini_batches=1, num_ppo_epochs=1,
        total_episodes=rows * STEPS, local_rollout_forward_batch_size=rows, num_sample_generations=0,
        response_length=job["response"], temperature=1.0, stop_token="eos",
    )  # fmt: skip
    trainer = PPOTrainer(
        args=config, processing_class=tokenizer, model=policy, ref_model=reference, reward_model=reward,
        value_model=value, train_dataset=Dataset.from_dict({"input_ids": tokenizer(texts)["input_ids"]}),
    )  # fmt: skip
    gc.collect()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    started = time.perf_counter()
    trainer.train()
    peak = (torch.cuda.max_memory_allocated() if cuda else status("VmHWM")) - before
    versions = {name: version(name) for name in ("trl", "transformers", "torch", "peft", "accelerate")}
    print(json.dumps({"peak": peak, "wall": time.perf_counter() - started, "before": before, "versions": versions}))


if __name__ == "__main__":
    main()
