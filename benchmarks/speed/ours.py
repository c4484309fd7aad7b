"""humanward's side of benchmarks/ppo_speed.py: policy, reference, critic and reward model on one base."""

from __future__ import annotations

import torch
from work import LORA, Meter, Work

from humanward.algorithm_config import PPOConfig
from humanward.config import LoraConfig, ModelConfig, SamplingConfig
from humanward.models.base import SharedBase
from humanward.models.heads import ScoreHead, ValueHead
from humanward.models.loading import load_model
from humanward.records import Prompt
from humanward.reward.model import RewardModel
from humanward.rl.trainer import OnPolicyTrainer


def main() -> None:
    """Load, warm up, measure, print.

    ``setting`` is words and numbers: "rows 16" in one forward, "samples 4" of a prompt, "own critic" for a critic with
    an adapter of its own, "checkpointing".
    """
    work = Work.from_command_line()
    meter = Meter(work.device)
    words = work.setting.split()
    numbers = {name: int(words[words.index(name) + 1]) for name in ("rows", "samples") if name in words}
    own_critic = "critic" in words
    lora = LoraConfig(rank=LORA["r"], alpha=LORA["lora_alpha"])
    base = SharedBase(
        load_model(
            ModelConfig(
                policy=work.model, dtype=work.dtype, device=work.device, quantization=work.quantization,
                max_prompt_tokens=work.longest, gradient_checkpointing="checkpointing" in words,
            )
        ),
        gradient_checkpointing="checkpointing" in words,
    )  # fmt: skip
    if work.train == "full":
        base.add_whole_role("policy")
    else:
        base.add_role("policy", lora, seed=0)
    base.add_role("reward", lora, seed=1)
    for parameter in base.role_parameters("reward"):
        parameter.requires_grad_(False)
    head = None
    if own_critic:
        base.add_role("critic", lora, seed=2)
        head = ValueHead(base.width)
    reward = RewardModel(base, ScoreHead(base.width, torch.Generator().manual_seed(0)), limit=2048)
    rows = work.episodes
    config = PPOConfig(
        steps=work.steps + work.warmup,
        rollout_size=rows,
        minibatch_size=rows,
        micro_batch_size=min(rows, numbers.get("rows", rows)),
        micro_batch_tokens=1 << 20,
        samples_per_prompt=numbers.get("samples", 1),
        epochs=work.epochs,
        critic="adapter" if own_critic else "trunk",
        critic_warmup_steps=0,
        learning_rate=1e-5,
        target_update_kl=1e9,
    )
    prompts = [Prompt(id=f"p{row}", text=text) for row, text in enumerate(work.texts())]
    trainer = OnPolicyTrainer(
        base, config, SamplingConfig(max_new_tokens=work.response, batch_size=rows), prompts,
        lambda asked, texts, tokens: reward.score_tokens(tokens), seed=0, value_head=head,
    )  # fmt: skip
    lengths = []
    # On CUDA the phases wait for the device, so that each has its own time.
    trainer.phases.detailed = meter.cuda
    for step in range(work.steps + work.warmup):
        if step == work.warmup:
            meter.forget()
        meter.start()
        metrics = trainer.step()
        meter.stop()
        for name, value in metrics.items():
            if name.startswith("ppo/seconds_"):
                phase = name.removeprefix("ppo/seconds_")
                meter.phases[phase] = meter.phases.get(phase, 0.0) + value
        lengths.append(metrics["ppo/response_length"])
    meter.report(response_length=lengths[work.warmup :])


if __name__ == "__main__":
    main()
