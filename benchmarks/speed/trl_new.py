"""TRL 1.12's side of benchmarks/ppo_speed.py: four models, or with LoRA the policy's adapter and two whole models."""

from __future__ import annotations

import os

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

from typing import Any

import trl.experimental.ppo.ppo_trainer as peer
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, TrainerCallback
from trl.experimental.ppo import PPOConfig, PPOTrainer
from work import DTYPES, LORA, Meter, Work, tokenizer


def main() -> None:
    """Load, warm up, measure, print. ``setting`` is the number of episodes in one forward and backward pass."""
    work = Work.from_command_line()
    meter = Meter(work.device)
    cuda = work.device.startswith("cuda")
    dtype = DTYPES[work.dtype]

    def causal() -> Any:
        return AutoModelForCausalLM.from_pretrained(work.model, dtype=dtype, local_files_only=True)

    def scalar() -> Any:
        return AutoModelForSequenceClassification.from_pretrained(
            work.reward_model, num_labels=1, dtype=dtype, local_files_only=True
        )

    words = tokenizer(work.vocabulary)
    words.padding_side = "left"
    policy, reference = causal(), None
    if work.train == "lora":
        policy = get_peft_model(policy, LoraConfig(**LORA, task_type="CAUSAL_LM"))
    else:
        reference = causal()
    rows, batch = work.episodes, int(work.setting or work.episodes)
    steps = work.steps + work.warmup
    config = PPOConfig(
        output_dir=work.out, seed=0, use_cpu=not cuda, bf16=False, gradient_checkpointing=False, learning_rate=1e-5,
        report_to="none", save_strategy="no", logging_steps=1, disable_tqdm=True, dataloader_pin_memory=False,
        per_device_train_batch_size=batch, gradient_accumulation_steps=rows // batch, num_mini_batches=1,
        num_ppo_epochs=work.epochs, total_episodes=rows * steps, local_rollout_forward_batch_size=batch,
        num_sample_generations=0, response_length=work.response, temperature=1.0, stop_token="eos",
    )  # fmt: skip
    whole, reward_of = peer.batch_generation, peer.get_reward

    def generate(*args: Any, **kwargs: Any) -> Any:
        with meter.phase("sample"):
            return whole(*args, **kwargs)

    def score(*args: Any, **kwargs: Any) -> Any:
        with meter.phase("reward and value"):
            return reward_of(*args, **kwargs)

    peer.batch_generation, peer.get_reward = generate, score

    class Clock(TrainerCallback):
        """TRL's loop has no hook where a step begins: it begins where the one before ended."""

        done = 0

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            meter.stop()
            self.done += 1
            if self.done == work.warmup:
                meter.forget()
            meter.start()

    trainer = PPOTrainer(
        args=config, processing_class=words, model=policy, ref_model=reference, reward_model=scalar(),
        value_model=scalar(), train_dataset=Dataset.from_dict({"input_ids": words(work.texts())["input_ids"]}),
        callbacks=[Clock()],
    )  # fmt: skip
    meter.start()
    trainer.train()
    meter.report()


if __name__ == "__main__":
    main()
