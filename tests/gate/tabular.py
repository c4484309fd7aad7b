"""The shipped trainer on a policy that is a table: logits by history, in float64.

The base is the real SharedBase, so sampling, states, masks and roles are the shipped ones. Two things are replaced: a
role chooses a table instead of an adapter, and log-probabilities stay in float64 (the shipped ones are float32 at
least and at most). The trunk names the state: its hidden state is the one-hot number of the history.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from gate.optimum import END, HISTORIES, LONGEST, RESPONSES, A, Distance, Problem, response_logprobs, spelled
from tokenizers import Tokenizer, decoders
from tokenizers import models as tokenizer_models
from torch import nn
from transformers import DynamicCache, PretrainedConfig, PreTrainedTokenizerFast
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from humanward.algorithm_config import PPOConfig
from humanward.config import SamplingConfig
from humanward.models.base import SharedBase
from humanward.models.loading import finish_loading
from humanward.models.tokens import Tokens
from humanward.records import Prompt
from humanward.rl.trainer import OnPolicyTrainer

REFERENCE = torch.tensor(
    [
        [0.0, 0.2, 0.0],
        [-1.3, -0.3, 0.0],
        [-1.1, -0.9, 0.0],
        [-1.4, -2.3, 0.0],
        [1.4, -1.7, 0.0],
        [1.4, 2.1, 0.0],
        [-1.3, 1.8, 0.0],
    ],
    dtype=torch.float64,
)
"""(7, 3) the reference's logits of a, b and END by history."""

REWARDS = {
    ".": 0.4,
    "a.": 0.0,
    "b.": 0.6,
    "aa.": 0.2,
    "ab.": 0.3,
    "ba.": 1.4,
    "bb.": 0.9,
    "aaa": -0.9,
    "aab": 1.6,
    "aba": -0.6,
    "abb": 1.7,
    "baa": -0.3,
    "bab": -1.7,
    "bba": 0.8,
    "bbb": -0.7,
}

PROMPTS = [Prompt(id=f"p{i}", text="a") for i in range(64)]
"""One prompt of one token, under many names, so that estimators which compare within a prompt form groups."""


def tokenizer() -> PreTrainedTokenizerFast:
    """a, b and </s>, nothing else: no padding token, so the end's id fills what is masked."""
    letters = Tokenizer(tokenizer_models.BPE({"a": 0, "b": 1, "</s>": END}, []))
    letters.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=letters, eos_token="</s>")


def _state_numbers() -> torch.Tensor:
    """(5 ** 5,) the state, by what was read so far: digit c of the number is column c's token + 1, or 0 where masked.

    The first token is the prompt. END, and whatever follows two letters, changes nothing: so the state after an end
    looks like the one before it, and code that reads beyond the end reads a value that is not 0.
    """
    place = {history: row for row, history in enumerate(HISTORIES)}
    numbers = []
    for digits in itertools.product(range(5), repeat=COLUMNS):
        history: tuple[int, ...] = ()
        for token in [digit - 1 for digit in reversed(digits) if digit][1:]:
            history = (*history, token) if (*history, token) in place else history
        numbers.append(place[history])
    return torch.tensor(numbers)


COLUMNS = 5
"""Prompt and response together fit into so many."""


class TabularTrunk(nn.Module):
    """Token ids -> one-hot number of what was written after the prompt's one token; masked tokens are passed over.

    The cache holds the ids that were read, which is all that a table has to remember.
    """

    def __init__(self) -> None:
        super().__init__()
        self.numbers = _state_numbers()
        self.places = 5 ** torch.arange(COLUMNS)
        self.one_hot = torch.eye(len(HISTORIES), dtype=torch.float64)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        past_key_values: DynamicCache | None = None,
        **_: Any,
    ) -> BaseModelOutputWithPast:
        ids = input_ids
        if past_key_values is not None:
            as_keys = input_ids[:, None, :, None].double()
            ids = past_key_values.update(as_keys, as_keys, 0)[0][:, 0, :, 0].long()
        read = ((ids + 1) * attention_mask * self.places[: ids.shape[1]]).cumsum(1)
        return BaseModelOutputWithPast(last_hidden_state=self.one_hot[self.numbers[read[:, -input_ids.shape[1] :]]])


class TabularModel(nn.Module):
    """What SharedBase asks of a causal model: a trunk, and an output matrix (3, 7), which is the table in force."""

    def __init__(self, policy: torch.Tensor) -> None:
        super().__init__()
        self.config = PretrainedConfig(num_hidden_layers=1, vocab_size=3, max_position_embeddings=8)
        self.base_model = TabularTrunk()
        self.tables = nn.ModuleDict(
            {name: nn.Linear(*REFERENCE.shape, bias=False, dtype=torch.float64) for name in ("reference", "policy")}
        )
        with torch.no_grad():
            for name, table in (("reference", REFERENCE), ("policy", policy)):
                self.tables[name].weight.copy_(table.T)
        self.in_force = "reference"
        self.dtype, self.device = torch.float64, torch.device("cpu")

    def get_input_embeddings(self) -> nn.Module:
        return self.tables["reference"]

    def get_output_embeddings(self) -> nn.Module:
        return self.tables[self.in_force]

    def forward(self, **inputs: Any) -> CausalLMOutputWithPast:
        hidden = self.base_model(**inputs).last_hidden_state
        return CausalLMOutputWithPast(logits=self.get_output_embeddings()(hidden))


class TabularBase(SharedBase):
    """A SharedBase whose policy is a table of its own, the reference's at the start unless told otherwise."""

    def __init__(self, policy: torch.Tensor = REFERENCE) -> None:
        super().__init__(finish_loading(TabularModel(policy), tokenizer(), "table"))
        self.model.tables["policy"].requires_grad_(True)

    @property
    def roles(self) -> tuple[str, ...]:
        return ("policy", "reference")

    def role_parameters(self, name: str) -> list[nn.Parameter]:
        return list(self.model.tables[name].parameters())

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        return [A]

    def _switch(self, name: str) -> None:
        self._role = self.model.in_force = name

    def logprobs(
        self, tokens: Tokens, *, temperature: float = 1.0, entropy: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        hidden, mask = self.states(tokens), tokens.response_mask
        steps = (self.model.get_output_embeddings()(hidden[:, :-1]) / temperature).log_softmax(-1)
        logprobs = steps.gather(-1, tokens.response_ids[..., None]).squeeze(-1)
        entropies = -(steps.exp() * steps).sum(-1).detach() if entropy else torch.zeros_like(logprobs)
        return torch.where(mask, logprobs, 0.0), torch.where(mask, entropies, 0.0), hidden

    @property
    def table(self) -> torch.Tensor:
        """(7, 3) the policy's logits by history."""
        return self.model.tables["policy"].weight.detach().T


@dataclass(frozen=True)
class Setup:
    """A way to run the trainer on the MDP, and the bar that it has to come below.

    ``options`` are those of PPOConfig where they differ from SETTINGS; ``shift`` is added to every score.
    """

    name: str
    algorithm: str = "ppo"
    options: dict[str, Any] = field(default_factory=dict)
    temperature: float = 1.0
    shift: float = 0.0
    tv: float = 1e-3
    gap: float = 1e-6

    def config(self) -> PPOConfig:
        """All options of the run."""
        return PPOConfig(**{**SETTINGS, **self.options})

    def problem(self) -> Problem:
        """What the run has to solve. A temperature divides the reference's logits too; penalties change rewards."""
        config, rewards = self.config(), []
        for response in RESPONSES:
            cut_off = config.missing_eos_penalty if response[-1] != END else 0.0
            rewards.append(REWARDS[spelled(response)] + self.shift - cut_off - config.length_penalty * len(response))
        return Problem(torch.tensor(rewards, dtype=torch.float64), REFERENCE / self.temperature, BETA)

    def score(self, _prompts: Sequence[Prompt], texts: Sequence[str], _tokens: Tokens) -> torch.Tensor:
        """(B,) the scorer. A text of three letters was cut off, a shorter one has ended."""
        closed = [text if len(text) == LONGEST else f"{text}." for text in texts]
        return torch.tensor([REWARDS[text] + self.shift for text in closed], dtype=torch.float64)

    def trainer(self, *, seed: int = 0, policy: torch.Tensor = REFERENCE) -> OnPolicyTrainer:
        """The shipped trainer, on tables."""
        sampling = SamplingConfig(max_new_tokens=LONGEST, temperature=self.temperature, batch_size=4096)
        trainer = OnPolicyTrainer(
            TabularBase(policy), self.config(), sampling, PROMPTS, self.score, seed=seed, algorithm=self.algorithm
        )
        if trainer.value_head is not None:
            trainer.value_head.double()
        return trainer

    def train(self, *, seed: int = 0) -> torch.Tensor:
        """(15,) log-probabilities of the policy where the shipped trainer ends."""
        trainer = self.trainer(seed=seed)
        for _ in range(trainer.config.steps):
            trainer.step()
        return response_logprobs(trainer.base.table / self.temperature)

    def distance(self, *, seed: int = 0) -> Distance:
        """From where the shipped trainer ends to the optimum."""
        return self.problem().distance(self.train(seed=seed))


BETA = 0.5

SETTINGS: dict[str, Any] = {
    "steps": 150,
    "rollout_size": 256,
    "minibatch_size": 128,
    "micro_batch_size": 128,
    "epochs": 3,
    "learning_rate": 0.07,
    "critic_learning_rate": 0.1,
    "critic_warmup_steps": 0,
    "whiten_advantages": False,
    "missing_eos_penalty": 0.0,
    "kl_controller": "fixed",
    "kl_coef": BETA,
    "target_update_kl": 1e6,
}
"""What differs from the defaults: rates for a table, no whitening (so noise vanishes at the optimum), beta as it is."""

GROUPS = {"samples_per_prompt": 16}
FLAT_END = {"learning_rate": 0.03, "schedule": "cosine"}
"""For noise that does not vanish at the optimum: a decay that ends flat."""

ONE_BATCH = {"rollout_size": 512, "minibatch_size": 512, "micro_batch_size": 512, "epochs": 1, "schedule": "cosine"}

PPO = Setup("ppo")
LAMBDA_1 = Setup("ppo, lambda 1", options={"gae_lambda": 1.0})
MICRO = Setup("ppo, micro-batches of 32, warm-up", options={"micro_batch_size": 32, "critic_warmup_steps": 5})
PENALTIES = Setup("ppo, penalties", options={"steps": 220, "missing_eos_penalty": 0.2, "length_penalty": 0.0625})
WARM = Setup("ppo, temperature .7", options={"learning_rate": 0.05}, temperature=0.7)
WHITENED = Setup("ppo, whitened", options={**FLAT_END, "whiten_advantages": True})
MANY_EPOCHS = Setup(
    "ppo, 16 epochs",
    options={
        "steps": 90,
        "epochs": 16,
        "minibatch_size": 256,
        "micro_batch_size": 256,
        "learning_rate": 0.1,
        "schedule": "cosine",
    },
)
RLOO = Setup("rloo", "rloo", GROUPS)
GRPO_PLAIN = Setup("grpo without deviation", "grpo", {**GROUPS, "scale_by_deviation": False})
GRPO = Setup("grpo", "grpo", {**GROUPS, **FLAT_END})
REINFORCE = Setup(
    "reinforce++, scores + 3", "reinforce++", {**ONE_BATCH, "learning_rate": 0.1}, shift=3.0, tv=5e-3, gap=1e-4
)
"""Without a baseline by state its noise stays at the optimum, so its bar is the network's."""

K3_IN_THE_LOSS = Setup("ppo, k3 in the loss", options={**ONE_BATCH, "learning_rate": 0.1, "kl_place": "loss"}, tv=0.03)
"""Has a point of its own, and noise there."""

SETUPS = [PPO, LAMBDA_1, MICRO, PENALTIES, WARM, WHITENED, MANY_EPOCHS, RLOO, GRPO_PLAIN, GRPO, REINFORCE]
"""What has to reach the optimum. To have another algorithm converge, add its line."""
