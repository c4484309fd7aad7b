"""TRL's DPO on one job: the pairs of a run directory, each pair once."""

from __future__ import annotations

import time

from datasets import Dataset
from trl import DPOConfig, DPOTrainer
from trl_common import finish, load_policy, lora, read_job, training_arguments


def main() -> None:
    """Train and write."""
    job, started = read_job(), time.perf_counter()
    s = job["settings"]
    config = DPOConfig(
        **training_arguments(job),
        per_device_train_batch_size=s["dpo_batch_size"],
        gradient_accumulation_steps=1,
        num_train_epochs=s["dpo_epochs"],
        max_length=s["dpo_max_tokens"],
        beta=job["kl_coef"],
        precompute_ref_log_probs=True,
    )
    model, tokenizer = load_policy(job)

    def turn(role: str, content: str) -> list[dict[str, str]]:
        return [{"role": role, "content": content}]

    pairs = Dataset.from_list(
        [
            {
                "prompt": turn("user", pair["prompt"]),
                "chosen": turn("assistant", pair["chosen"]),
                "rejected": turn("assistant", pair["rejected"]),
            }
            for pair in job["pairs"]
        ]
    )
    trainer = DPOTrainer(
        model=model, args=config, train_dataset=pairs, processing_class=tokenizer, peft_config=lora(job)
    )
    trainer.train()
    history = [{"loss": row["loss"]} for row in trainer.state.log_history if "loss" in row]
    finish(
        job,
        trainer.model,
        started=started,
        probes=[],
        optimizer_steps=trainer.state.global_step,
        history=history,
    )


if __name__ == "__main__":
    main()
