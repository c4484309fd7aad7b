"""TRL 0.11.4's side of benchmarks/ppo_speed.py: the older PPOTrainer, whose critic is a head on the policy's trunk."""

from __future__ import annotations

import copy
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
from trl import AutoModelForCausalLMWithValueHead, PPOConfig, PPOTrainer
from work import DTYPES, LORA, VOCABULARY, Meter, Work, tokenizer


def main() -> None:
    """Load, warm up, measure, print. ``setting`` is the number of episodes in one forward and backward pass."""
    work = Work.from_command_line()
    meter = Meter()
    dtype = DTYPES[work.dtype]
    words = tokenizer(VOCABULARY)
    words.padding_side = "left"
    plain = AutoModelForCausalLM.from_pretrained(work.model, torch_dtype=dtype, local_files_only=True)
    reference = None
    if work.train == "lora":
        plain = get_peft_model(plain, LoraConfig(**LORA, task_type="CAUSAL_LM"))
    policy = AutoModelForCausalLMWithValueHead.from_pretrained(plain)
    if work.train == "full":
        reference = copy.deepcopy(policy)
    reward = AutoModelForSequenceClassification.from_pretrained(
        work.reward_model, num_labels=1, torch_dtype=dtype, local_files_only=True
    ).eval()
    rows, batch = work.episodes, int(work.setting or work.episodes)
    trainer = PPOTrainer(
        config=PPOConfig(
            batch_size=rows, mini_batch_size=batch, gradient_accumulation_steps=rows // batch, ppo_epochs=work.epochs,
            learning_rate=1e-5, seed=0, use_score_scaling=False,
        ),
        model=policy, ref_model=reference, tokenizer=words,
    )  # fmt: skip
    settings = {
        "max_new_tokens": work.response, "do_sample": True, "top_k": 0, "top_p": 1.0,
        "pad_token_id": words.pad_token_id, "eos_token_id": words.eos_token_id,
    }  # fmt: skip
    texts = work.texts()
    for step in range(work.steps + work.warmup):
        if step == work.warmup:
            meter.forget()
        meter.start()
        asked = [torch.tensor(words(text)["input_ids"]) for text in texts[step * rows : (step + 1) * rows]]
        with meter.phase("sample"):
            answers: Any = trainer.generate(asked, batch_size=rows, return_prompt=False, **settings)
        with meter.phase("reward"), torch.no_grad():
            whole = [torch.cat(pair) for pair in zip(asked, answers, strict=True)]
            padded = words.pad({"input_ids": whole}, return_tensors="pt")
            scores = list(reward(**padded).logits[:, 0].float())
        with meter.phase("judge and learn"):
            trainer.step(asked, answers, scores)
        meter.stop()
    meter.report(response_length=float(sum(map(len, answers)) / rows))


if __name__ == "__main__":
    main()
