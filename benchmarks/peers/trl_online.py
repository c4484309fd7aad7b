"""TRL's RLOO or GRPO on one job."""

from __future__ import annotations

import time

from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer
from trl_common import conversations, finish, function_reward, load_policy, lora, read_job, training_arguments

TRAINERS = {"rloo": (RLOOConfig, RLOOTrainer), "grpo": (GRPOConfig, GRPOTrainer)}


def main() -> None:
    """Train and write. A rollout is generated at once and learnt from in minibatches, ``epochs`` times."""
    job, started = read_job(), time.perf_counter()
    s = job["settings"]
    make_config, make_trainer = TRAINERS[job["algorithm"]]
    minibatches = s["rollout_size"] // s["minibatch_size"]
    config = make_config(
        **training_arguments(job),
        per_device_train_batch_size=s["minibatch_size"],
        gradient_accumulation_steps=1,
        steps_per_generation=minibatches,
        num_iterations=s["epochs"],
        max_steps=s["rollouts"] * s["epochs"] * minibatches,
        num_generations=s["samples_per_prompt"],
        max_completion_length=s["max_new_tokens"],
        temperature=s["temperature"],
        epsilon=s["clip_range"],
        beta=job["kl_coef"],
        disable_dropout=True,
    )
    model, tokenizer = load_policy(job)
    score, reward = function_reward(job)
    trainer = make_trainer(
        model=model,
        reward_funcs=reward,
        args=config,
        train_dataset=conversations(job),
        processing_class=tokenizer,
        peft_config=lora(job),
    )
    trainer.train()
    history = [{"score": row["reward"], "kl": row["kl"]} for row in trainer.state.log_history if "reward" in row]
    finish(
        job,
        trainer.model,
        started=started,
        probes=score.probes,
        optimizer_steps=trainer.state.global_step,
        history=history,
    )


if __name__ == "__main__":
    main()
