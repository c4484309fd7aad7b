"""The shipped trainer on a real transformers model: LoRA on a random GPT-2 of one layer, in float32.

The optimum of every prompt is enumerated from the untouched model's own forward on single rows without padding, in
float64. The policy is measured in the same way, as plain PEFT loads what was saved.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import peft
import torch
from gate.optimum import END, HISTORIES, LONGEST, RESPONSES, Distance, Problem, response_logprobs, spelled
from gate.tabular import BETA, REWARDS, tokenizer
from transformers import GPT2Config, GPT2LMHeadModel

from humanward.algorithm_config import PPOConfig
from humanward.config import LoraConfig, SamplingConfig
from humanward.models.base import SharedBase
from humanward.models.loading import finish_loading
from humanward.models.tokens import Tokens
from humanward.records import Prompt
from humanward.rl.trainer import OnPolicyTrainer

TEMPERATURE = 0.7
SEED = 6
"""Of the model and of LoRA's start; chosen among twelve for a mean length near 2 and quick convergence."""

TV, GAP = 5e-3, 1e-4
"""The bar, for the mean over prompts."""

PROMPTS = [Prompt(id=text, text=text) for text in ("a", "bb", "abab")]
"""Of 1, 2 and 4 tokens, so every batch is padded on the left."""

SETTINGS: dict[str, Any] = {
    "steps": 180,
    "rollout_size": 256,
    "minibatch_size": 128,
    "micro_batch_size": 128,
    "epochs": 3,
    "learning_rate": 0.005,
    "critic_learning_rate": 0.02,
    "schedule": "cosine",
    "critic_warmup_steps": 8,
    "whiten_advantages": False,
    "missing_eos_penalty": 0.0,
    "kl_controller": "fixed",
    "kl_coef": BETA,
    "target_update_kl": 1e6,
}


def random_model() -> GPT2LMHeadModel:
    """A GPT-2 of one layer over {a, b, END}, the same at every call; predictions and positions matter in it.

    Its configuration asks for dropout, as most do; training without is the trainer's business.
    """
    config = GPT2Config(
        vocab_size=3,
        n_embd=32,
        n_layer=1,
        n_head=2,
        n_positions=16,
        bos_token_id=None,
        eos_token_id=END,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = GPT2LMHeadModel(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(std=0.3)
            model.get_output_embeddings().weight.normal_(std=0.1)
    return model.eval()


@torch.no_grad()
def next_token_logits(model: Any, prompt: Prompt) -> torch.Tensor:
    """(7, 3) after a prompt and each history, by the model's own forward on one row without padding."""
    begun = ["ab".index(letter) for letter in prompt.text]
    return torch.stack([model(input_ids=torch.tensor([[*begun, *h]])).logits[0, -1] for h in HISTORIES]).double()


def reward(prompt: str, response: str) -> float:
    """Half of the tables' rewards, and .3 more where a response goes on with the prompt's last letter."""
    return REWARDS[response] / 2 + (0.3 if response[0] == prompt[-1] else 0.0)


def score(prompts: Sequence[Prompt], texts: Sequence[str], _tokens: Tokens) -> torch.Tensor:
    """(B,) the scorer. A text of three letters was cut off, a shorter one has ended."""
    closed = [text if len(text) == LONGEST else f"{text}." for text in texts]
    return torch.tensor([reward(prompt.text, text) for prompt, text in zip(prompts, closed, strict=True)])


@cache
def problems() -> list[Problem]:
    """What is to be solved for each prompt, by the untouched model in float64."""
    model = random_model().double()
    found = []
    for prompt in PROMPTS:
        rewards = torch.tensor([reward(prompt.text, spelled(r)) for r in RESPONSES], dtype=torch.float64)
        found.append(Problem(rewards, next_token_logits(model, prompt) / TEMPERATURE, BETA))
    return found


def distance_of(model: Any) -> Distance:
    """From a model to the optimum, the mean over prompts."""
    found = []
    for prompt, problem in zip(PROMPTS, problems(), strict=True):
        found.append(problem.distance(response_logprobs(next_token_logits(model, prompt) / TEMPERATURE)))
    return Distance(*(sum(getattr(d, name) for d in found) / len(found) for name in ("tv", "gap", "length")))


def train(folder: Path, algorithm: str = "ppo", *, seed: int = 0, **options: Any) -> Distance:
    """From where the shipped trainer ends to the optimum; ``folder`` receives the adapter."""
    base = SharedBase(finish_loading(random_model(), tokenizer(), "tiny"))
    base.add_role("policy", LoraConfig(rank=8, alpha=16.0), seed=SEED)
    sampling = SamplingConfig(max_new_tokens=LONGEST, temperature=TEMPERATURE, batch_size=4096)
    config = PPOConfig(**{**SETTINGS, **options})
    if config.critic == "adapter":
        base.add_role("critic", LoraConfig(rank=8, alpha=16.0), seed=SEED + 1)
    trainer = OnPolicyTrainer(base, config, sampling, PROMPTS, score, seed=seed, algorithm=algorithm)
    for _ in range(config.steps):
        trainer.step()
    base.save_role("policy", folder)
    return distance_of(peft.PeftModel.from_pretrained(random_model(), str(folder)).double().eval())
