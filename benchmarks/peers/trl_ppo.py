"""TRL 1.12.0's PPO on one job (trl.experimental.ppo)."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import torch
from datasets import Dataset
from torch import nn
from transformers import AutoModelForSequenceClassification
from trl.experimental.ppo import PPOConfig, PPOTrainer
from trl_common import StepCounter, TextReward, finish, peft_policy, read_job, training_arguments


class TextRewardModel(nn.Module):
    """A classifier with a tokenizer of its own in the shape that TRL's ``get_reward`` calls: a trunk, then ``score``.

    TRL reads the score at the response's last token; every place holds it here.
    """

    base_model_prefix = "trunk"

    def __init__(self, reward: TextReward, tokenizer: Any, assistant: int) -> None:
        super().__init__()
        self.reward, self.tokenizer, self.assistant = reward, tokenizer, assistant
        self.score = nn.Identity()

    def trunk(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: Any) -> SimpleNamespace:
        """Hidden states (B, T, 1) that are the score of the text after the prompt's last turn marker."""
        texts = []
        for ids, mask in zip(input_ids.tolist(), attention_mask.bool().tolist(), strict=True):
            real = [i for i, is_real in zip(ids, mask, strict=True) if is_real]
            # Prompts have one user turn, so the first marker opens the response.
            response = real[real.index(self.assistant) + 1 :]
            texts.append(self.tokenizer.decode(response, skip_special_tokens=True).strip())
        scores = self.reward(texts)
        return SimpleNamespace(hidden_states=(scores[:, None, None].expand(*input_ids.shape, 1),))


def main() -> None:
    """Train and write."""
    job, started = read_job(), time.perf_counter()
    s = job["settings"]
    model, tokenizer = peft_policy(job)
    # As TRL's examples have it: a value model of its own, all of its weights trained. It begins as the policy.
    value_model = AutoModelForSequenceClassification.from_pretrained(
        job["model"], num_labels=1, dtype=torch.float32, local_files_only=True
    )
    reward = TextReward(job)
    marker = tokenizer.convert_tokens_to_ids("<|assistant|>")
    ids = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
        )
        for text in job["prompts"]
    ]
    config = PPOConfig(
        **training_arguments(job),
        # One optimizer step a minibatch only without accumulation: with it, one an epoch (docs/peers.md).
        per_device_train_batch_size=s["rollout_size"],
        gradient_accumulation_steps=1,
        num_mini_batches=s["rollout_size"] // s["minibatch_size"],
        num_ppo_epochs=s["epochs"],
        total_episodes=s["rollouts"] * s["rollout_size"],
        local_rollout_forward_batch_size=s["rollout_size"],
        num_sample_generations=0,
        response_length=s["max_new_tokens"],
        temperature=s["temperature"],
        stop_token="eos",
        kl_coef=job["kl_coef"],
        cliprange=s["clip_range"],
        cliprange_value=s["value_clip_range"],
        vf_coef=s["value_coef"],
        gamma=s["gamma"],
        lam=s["gae_lambda"],
    )
    trainer = PPOTrainer(
        args=config,
        processing_class=tokenizer,
        model=model,
        ref_model=None,
        reward_model=TextRewardModel(reward, tokenizer, marker),
        train_dataset=Dataset.from_dict({"input_ids": ids}),
        value_model=value_model,
    )
    steps = StepCounter(trainer.optimizer)
    trainer.train()
    history = [
        {"score": row["objective/scores"], "kl": row["objective/kl"], "ratio": row["val/ratio"]}
        for row in trainer.state.log_history
    ]
    finish(
        job, trainer.model.policy, started=started, probes=reward.probes, optimizer_steps=steps.count, history=history
    )


if __name__ == "__main__":
    main()
