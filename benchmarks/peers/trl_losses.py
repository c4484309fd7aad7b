"""TRL's own loss code on one fixed batch, run by a peer's virtual environment.

    PEER_VENV/bin/python trl_losses.py ppo|online BATCH.json OUT.json

Models and sampling are replaced by the batch's numbers; every line between them and the loss is the installed
release's. ``losses.py`` makes the batch and holds the results to ours.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

KL_COEF, CLIP = 0.1, 0.2


def tensor(values: Any) -> torch.Tensor:
    """float64, so that rounding is far below every difference that is looked for."""
    return torch.tensor(values, dtype=torch.float64)


def arguments(folder: str, **more: Any) -> dict[str, Any]:
    """What the configurations take alike."""
    common = {
        "output_dir": folder,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
    }
    return {**common, "save_strategy": "no", "logging_steps": 1, "disable_tqdm": True, **more}


# --- PPO -------------------------------------------------------------------------------------


class PPOBench:
    """One real ``PPOTrainer.train()`` whose generation, forwards and reward are the fixed batch."""

    def __init__(self, batch: dict[str, Any]) -> None:
        self.batch = batch
        rows, width = len(batch["responses"]), batch["width"]
        self.prompt = len(batch["prompts"][0])
        self.responses = torch.tensor([r + [0] * (width - len(r)) for r in batch["responses"]])
        self.queries = torch.tensor(batch["prompts"])
        self.old, self.ref = tensor(batch["logits_old"]), tensor(batch["logits_ref"])
        self.new = nn.Parameter(tensor(batch["logits_new"]))
        self.values_old, self.values_new = tensor(batch["values_old"]), nn.Parameter(tensor(batch["values_new"]))
        self.scores = tensor(batch["scores"])
        self.first_token = {prompt[-1]: i for i, prompt in enumerate(batch["prompts"])}
        self.rows, self.width = rows, width
        self.whitened: list[dict[str, Any]] = []

    def rows_of(self, queries: torch.Tensor) -> torch.Tensor:
        """Which rows of the batch these are: a prompt's last token is its row's own."""
        return torch.tensor([self.first_token[int(t)] for t in queries[:, self.prompt - 1]])

    def run(self, *, epochs: int, minibatches: int, accumulation: int, updates: int, passes: int) -> dict[str, Any]:
        """Train and return what was seen. A pass over the data is ``passes`` times the batch, so as many updates."""
        np.random.seed(0)
        from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

        model, tokenizer = _policy(self.batch)
        reward_model, value_model = nn.Linear(1, 1), nn.Linear(1, 1)
        value_model.base_model_prefix, value_model.trunk = "trunk", nn.Identity()
        with tempfile.TemporaryDirectory() as folder:
            config = PPOConfig(
                **arguments(folder),
                per_device_train_batch_size=self.rows // accumulation,
                gradient_accumulation_steps=accumulation,
                num_mini_batches=minibatches,
                num_ppo_epochs=epochs,
                total_episodes=updates * self.rows,
                local_rollout_forward_batch_size=self.rows,
                num_sample_generations=0,
                response_length=self.width,
                temperature=1.0,
                stop_token="eos",
                kl_coef=KL_COEF,
                cliprange=CLIP,
                cliprange_value=CLIP,
                learning_rate=0.0,
            )
            trainer = PPOTrainer(
                args=config,
                processing_class=tokenizer,
                model=model,
                ref_model=None,
                reward_model=reward_model,
                train_dataset=Dataset.from_dict({"input_ids": self.batch["prompts"] * passes}),
                value_model=value_model,
                peft_config=LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"),
            )
            steps: list[int] = []
            inner = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
            inner.step = lambda *_, **__: steps.append(trainer.state.episode // self.rows)
            self._replace(ppo_trainer, value_model)
            trainer.train()
        (first, *_) = trainer.state.log_history
        return {
            "steps_by_update": [steps.count(update) for update in range(1, updates + 1)],
            "logged": {key: first[key] for key in ("loss/policy_avg", "loss/value_avg", "objective/kl")},
            "advantages_raw": self.whitened[0]["values"],
            "advantages": self.whitened[0]["result"],
            "loss_gradient": [] if self.new.grad is None else self.new.grad.tolist(),
        }

    def _replace(self, module: Any, value_model: nn.Module) -> None:
        """The batch's numbers in place of everything that a model would compute."""

        def pad(x: torch.Tensor) -> torch.Tensor:
            """(B, prompt + R, ...) with x's places where the states before each response token are."""
            before = x.new_zeros(x.shape[0], self.prompt - 1, *x.shape[2:])
            after = x.new_zeros(x.shape[0], 1, *x.shape[2:])
            return torch.cat([before, x, after], 1)

        def batch_generation(_model: Any, queries: torch.Tensor, *_: Any) -> tuple[torch.Tensor, torch.Tensor]:
            rows = self.rows_of(queries)
            return torch.cat([queries, self.responses[rows]], 1), self.old[rows]

        def forward(model: Any, query_responses: torch.Tensor, _pad: int) -> Any:
            rows = self.rows_of(query_responses)
            if isinstance(model, module.PolicyAndValueWrapper):
                output = SimpleNamespace(logits=pad(self.new[rows]))
                return output, pad(self.values_new[rows, : self.width])[..., None]
            return SimpleNamespace(logits=pad(self.ref[rows]))

        def get_reward(model: Any, query_responses: torch.Tensor, *_: Any) -> tuple[Any, Any, Any]:
            rows = self.rows_of(query_responses)
            if model is value_model:
                return pad(self.values_old[rows, : self.width])[..., None], None, None
            return None, self.scores[rows].clone(), None

        whiten = module.masked_whiten

        def masked_whiten(values: torch.Tensor, mask: torch.Tensor, shift_mean: bool = True) -> torch.Tensor:
            result = whiten(values, mask, shift_mean)
            # The data loader shuffles; by row again, and 0 on padding, as the next line of TRL makes it.
            order = self.rows_of(self.seen)
            for name, x in (("values", values), ("result", torch.where(mask, result, 0.0))):
                by_row = torch.zeros_like(x)
                by_row[order] = torch.where(mask, x, 0.0)
                if name == "values":
                    self.whitened.append({})
                self.whitened[-1][name] = by_row.tolist()
            return result

        def remembering(model: Any, queries: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, torch.Tensor]:
            self.seen = queries
            return batch_generation(model, queries, *rest)

        module.batch_generation, module.forward, module.get_reward = remembering, forward, get_reward
        module.masked_whiten = masked_whiten


def ppo(batch: dict[str, Any]) -> dict[str, Any]:
    """Losses of one pass over the batch, and optimizer steps by update for three ways to ask for minibatches."""
    found: dict[str, Any] = {
        "losses": PPOBench(batch).run(epochs=1, minibatches=1, accumulation=1, updates=1, passes=1)
    }
    ways = {
        "2 minibatches, 1 accumulation step": (2, 1),
        "2 minibatches, 2 accumulation steps": (2, 2),
        "4 minibatches, 4 accumulation steps": (4, 4),
    }
    found["optimizer_steps"] = {}
    for name, (minibatches, accumulation) in ways.items():
        seen = PPOBench(batch).run(epochs=4, minibatches=minibatches, accumulation=accumulation, updates=4, passes=3)
        found["optimizer_steps"][name] = {"by_update": seen["steps_by_update"], "logged": seen["logged"]}
    return found


# --- RLOO, GRPO, DPO -------------------------------------------------------------------------------------


def online(batch: dict[str, Any]) -> dict[str, Any]:
    """RLOO's and GRPO's advantages and losses, and DPO's loss."""
    from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

    found = {"rloo": _grouped(batch, RLOOConfig, RLOOTrainer, {}), "dpo": _dpo(batch)}
    for name, options in {
        "grpo": {},
        "grpo, use_bias_correction_kl=False": {"use_bias_correction_kl": False},
        "grpo, loss_type='grpo'": {"loss_type": "grpo"},
    }.items():
        found[name] = _grouped(batch, GRPOConfig, GRPOTrainer, options)
    return found


def _policy(batch: dict[str, Any]) -> tuple[Any, Any]:
    model = AutoModelForCausalLM.from_pretrained(batch["model"], dtype=torch.float32, local_files_only=True)
    return model, AutoTokenizer.from_pretrained(batch["model"], local_files_only=True)


def _logprobs(batch: dict[str, Any], name: str) -> torch.Tensor:
    """(B, R) log-probabilities of the responses' tokens; on padding the padding token's, as a model gives them."""
    width = batch["width"]
    ids = torch.tensor([r + [0] * (width - len(r)) for r in batch["responses"]])
    return tensor(batch[f"logits_{name}"]).log_softmax(-1).gather(-1, ids[..., None]).squeeze(-1)


def _grouped(batch: dict[str, Any], make_config: Any, make_trainer: Any, options: dict[str, Any]) -> dict[str, Any]:
    rows, width = len(batch["responses"]), batch["width"]
    model, tokenizer = _policy(batch)
    with tempfile.TemporaryDirectory() as folder:
        config = make_config(
            **arguments(folder),
            per_device_train_batch_size=rows,
            gradient_accumulation_steps=1,
            steps_per_generation=1,
            num_iterations=4,
            num_generations=batch["group_size"],
            max_completion_length=width,
            epsilon=CLIP,
            beta=KL_COEF,
            # Padding to a multiple is for speed and would widen the batch that was prepared.
            pad_to_multiple_of=None,
            **options,
        )
        trainer = make_trainer(
            model=model,
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            args=config,
            train_dataset=Dataset.from_list([{"prompt": "x"}] * rows),
            processing_class=tokenizer,
            peft_config=LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"),
        )
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    new = nn.Parameter(tensor(batch["logits_new"]))
    ids = torch.tensor([r + [0] * (width - len(r)) for r in batch["responses"]])
    given = [_logprobs(batch, "old"), _logprobs(batch, "ref")]
    given.append(new.log_softmax(-1).gather(-1, ids[..., None]).squeeze(-1))
    # Asked for in this order: old and reference log-probabilities after generation, new ones in the loss.
    order = iter(given)
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (next(order), torch.zeros(rows, width), None)
    trainer._calculate_rewards = lambda *_: tensor(batch["scores"])[:, None]
    texts = [""] * rows
    lists = (batch["prompts"], batch["responses"])
    trainer._generate = (
        (lambda _prompts: (*lists, texts))
        if make_trainer.__name__ == "RLOOTrainer"
        else (lambda _prompts: (*lists, None, texts, None, {}, None, None))
    )
    inputs = trainer._generate_and_score_completions([{"prompt": "x"}] * rows)
    # _prepare_inputs would shuffle and split; one batch needs neither.
    loss = trainer._compute_loss(trainer.model, inputs)
    loss.backward()
    return {"advantages": inputs["advantages"].tolist(), "loss": float(loss), "loss_gradient": new.grad.tolist()}


def _dpo(batch: dict[str, Any]) -> dict[str, Any]:
    """The first half of the rows as chosen responses, the second as rejected ones of the same prompts."""
    from trl import DPOConfig, DPOTrainer

    model, tokenizer = _policy(batch)
    rows, width, prompt = len(batch["responses"]), batch["width"], len(batch["prompts"][0])
    turn = [{"role": "user", "content": "x"}], [{"role": "assistant", "content": "y"}]
    with tempfile.TemporaryDirectory() as folder:
        config = DPOConfig(**arguments(folder), per_device_train_batch_size=rows // 2, beta=KL_COEF)
        trainer = DPOTrainer(
            model=model,
            args=config,
            train_dataset=Dataset.from_list([{"prompt": turn[0], "chosen": turn[1], "rejected": turn[1]}] * rows),
            processing_class=tokenizer,
            peft_config=LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"),
        )
    trainer.model.train()
    trainer.precompute_ref_logps = True
    trainer._metrics = {"train": defaultdict(list), "eval": defaultdict(list)}
    lengths = torch.tensor([len(r) for r in batch["responses"]])
    real = torch.arange(width) < lengths[:, None]
    mask = torch.cat([torch.zeros(rows, prompt).bool(), real], 1)
    new = nn.Parameter(_logprobs(batch, "new"))
    ref = torch.where(real, _logprobs(batch, "ref"), 0.0).sum(1)
    # The fused head gives 0 where a label is ignored.
    shifted = torch.cat([torch.zeros(rows, prompt - 1), torch.where(real, new, 0.0)], 1)
    flat = torch.zeros(rows, prompt + width - 1)
    outputs = SimpleNamespace(log_probs=shifted, entropy=flat, mean_logits=flat, is_top1=flat.bool())
    inputs = {
        "input_ids": torch.zeros(rows, prompt + width, dtype=torch.long),
        "attention_mask": mask.long(),
        "completion_mask": mask.long(),
        "ref_chosen_logps": ref[: rows // 2],
        "ref_rejected_logps": ref[rows // 2 :],
    }
    loss = trainer._compute_loss(lambda **_: outputs, inputs, return_outputs=False)
    loss.backward()
    return {"loss": float(loss), "loss_gradient": new.grad.tolist()}


def main() -> None:
    """Compute and write."""
    which, source, out = sys.argv[1:]
    batch = json.loads(Path(source).read_text(encoding="utf-8"))
    found = {"ppo": ppo, "online": online}[which](batch)
    Path(out).write_text(json.dumps(found) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
