"""One measured process of benchmarks/memory.py: loads a model, takes a few steps, prints their peak memory as JSON.

python memory_steps.py '{"what": "ppo", "model": FOLDER, "device": "cpu", ...}'
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from memory_shapes import prompt_of
from peft.tuners.tuners_utils import BaseTunerLayer

from humanward.algorithm_config import PPOConfig
from humanward.config import LoraConfig, ModelConfig, SamplingConfig
from humanward.models.base import SharedBase
from humanward.models.heads import ScoreHead, ValueHead
from humanward.models.loading import load_model
from humanward.models.machine import give_back
from humanward.models.tokens import make_tokens
from humanward.records import Prompt
from humanward.reward.model import RewardModel
from humanward.rl.trainer import OnPolicyTrainer

STEPS = 2
"""The second step is the first that has Adam's moments from its beginning."""

SWITCHES = {"trunk": 6, "adapter": 10}
"""In one step of one micro-batch: to policy, reference and reward and back; to a critic of its own twice."""


def status(name: str) -> int:
    """A line of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {name}")


class Meter:
    """Peak memory since ``reset``: resident memory of the process (VmHWM), or what CUDA's allocator gave out."""

    def __init__(self, device: str) -> None:
        self.cuda = device.startswith("cuda")
        if self.cuda:
            torch.cuda.init()
        else:
            # What a first product of each kind sets up is the libraries' own memory, not the model's.
            with torch.autocast("cpu", dtype=torch.bfloat16):
                (torch.ones(64, 64, requires_grad=True) @ torch.ones(64, 64)).sum().backward()
        self.before = self.now()

    def now(self) -> int:
        gc.collect()
        return torch.cuda.memory_allocated() if self.cuda else status("VmRSS")

    def reset(self) -> None:
        gc.collect()
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")

    def peak(self) -> int:
        """Bytes above what was in use before anything was loaded."""
        return (torch.cuda.max_memory_allocated() if self.cuda else status("VmHWM")) - self.before


def prompts(job: dict[str, Any]) -> list[Prompt]:
    """As many different prompts as the job's rows, each of as many tokens as it says."""
    return [Prompt(id=f"p{row}", text=prompt_of(row, job["prompt"])) for row in range(job["rows"])]


def load(job: dict[str, Any]) -> SharedBase:
    """The base in bfloat16 or NF4, with its ``policy`` role."""
    config = ModelConfig(
        policy=job["model"], dtype="bfloat16", device=job["device"], quantization=job.get("quantization", "none"),
        gradient_checkpointing=job.get("checkpointing", False),
    )  # fmt: skip
    base = SharedBase(load_model(config), gradient_checkpointing=config.gradient_checkpointing)
    base.add_role("policy", LoraConfig(), seed=0)
    gc.collect()
    give_back()
    return base


def finetune(job: dict[str, Any], base: SharedBase) -> dict[str, Any]:
    """The policy's own LoRA step: negative log-likelihood of random responses."""
    generator = torch.Generator().manual_seed(0)
    rows = [base.prompt_ids(prompt) for prompt in prompts(job)]
    assert all(len(ids) == job["prompt"] for ids in rows)
    answers = torch.randint(1000, (job["rows"], job["response"]), generator=generator).tolist()
    tokens = make_tokens(rows, answers, base.pad_id).to(base.device)
    optimizer = torch.optim.Adam(base.role_parameters("policy"), lr=1e-4)
    with base.role("policy"):
        for _ in range(STEPS):
            optimizer.zero_grad(set_to_none=True)
            loss = -base.logprobs(tokens)[0].sum() / tokens.response_mask.sum()
            loss.backward()
            optimizer.step()
            give_back()
    return {"loss": float(loss.detach())}


def ppo(job: dict[str, Any], base: SharedBase) -> dict[str, Any]:
    """PPO with policy, reference, critic and reward model on one base, and the switching between them."""
    head = None
    base.add_role("reward", LoraConfig(), seed=1)
    base.role_parameters("reward")
    for parameter in base.role_parameters("reward"):
        parameter.requires_grad_(False)
    reward = RewardModel(base, ScoreHead(base.width, torch.Generator().manual_seed(0)), limit=1024)
    if job.get("critic", "trunk") == "adapter":
        base.add_role("critic", LoraConfig(), seed=2)
        head = ValueHead(base.width)
    switched = switch_seconds(base)
    rows = job["rows"]
    config = PPOConfig(
        steps=STEPS + 1, rollout_size=rows, minibatch_size=rows, micro_batch_size=rows, epochs=1,
        critic_warmup_steps=0, critic=job.get("critic", "trunk"), learning_rate=1e-4,
    )  # fmt: skip
    trainer = OnPolicyTrainer(
        base, config, SamplingConfig(max_new_tokens=job["response"], batch_size=rows), prompts(job),
        lambda asked, texts, tokens: reward.score_tokens(tokens), seed=0, value_head=head,
    )  # fmt: skip
    seconds = []
    for _ in range(STEPS):
        # As the align stage does: the weights as they were, to go back to where the KL budget ends.
        kept = trainer.snapshot()
        began = time.process_time()
        metrics = trainer.step()
        seconds.append(time.process_time() - began)
    del kept
    return {
        "response_length": metrics["ppo/response_length"], "cpu_seconds": seconds,
        "switch_seconds": switched["seconds"],
        "switches": SWITCHES[job.get("critic", "trunk")],
    }  # fmt: skip


def switch_seconds(base: SharedBase) -> dict[str, Any]:
    """CPU seconds of one switch, over the roles of a step; a step has there and back for each of them."""
    count, started = 0, time.process_time()
    with base.role("policy"):
        for _ in range(20):
            for name in base.roles:
                if name != "policy":
                    with base.role(name):
                        count += 2
    return {"seconds": (time.process_time() - started) / count, "count": count}


def sizes(job: dict[str, Any], base: SharedBase) -> dict[str, Any]:
    """Bytes of the base's linear layers and of all of its weights, with the constants of their quantisation.

    What PEFT puts around them is left out.
    """
    linear = whole = 0
    seen: set[int] = set()
    head = base.model.get_output_embeddings()
    for name, module in base.model.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, BaseTunerLayer) or ".lora_" in f".{name}":
            continue
        if not isinstance(weight, torch.Tensor) or weight.data_ptr() in seen:
            continue
        seen.add(weight.data_ptr())
        held = weight.numel() * weight.element_size() + quantisation_bytes(weight)
        whole += held
        if isinstance(module, torch.nn.Linear) and module is not head:
            linear += held
        bias = getattr(module, "bias", None)
        whole += 0 if bias is None else bias.numel() * bias.element_size()
    return {"linear": linear, "whole": whole}


def quantisation_bytes(weight: torch.Tensor) -> int:
    """What bitsandbytes keeps beside a weight's packed numbers."""
    state = getattr(weight, "quant_state", None)
    held = 0
    while state is not None:
        for tensor in (state.absmax, state.code, state.offset):
            held += 0 if not isinstance(tensor, torch.Tensor) else tensor.numel() * tensor.element_size()
        state = state.state2 if state.nested else None
    return held


WHAT = {"finetune": finetune, "ppo": ppo, "sizes": sizes}


def main() -> None:
    """Load, measure, print."""
    job = json.loads(sys.argv[1])
    meter = Meter(job["device"])
    meter.reset()
    base = load(job)
    loading, loaded = meter.peak(), meter.now() - meter.before
    meter.reset()
    started = time.perf_counter()
    found = WHAT[job["what"]](job, base)
    found |= {"loading": loading, "loaded": loaded, "peak": meter.peak(), "wall": time.perf_counter() - started}
    found |= {"before": meter.before}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
