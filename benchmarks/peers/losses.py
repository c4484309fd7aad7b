"""The losses of ours and of the peers on one fixed batch, and which convention of the peer explains each difference.

    python benchmarks/peers/losses.py --venvs ~/peer-venvs

Both sides are given the same log-probabilities, values, scores and masks. Ours is computed as it is, then with one
convention of the peer after the other; the last row must equal the peer's number, or the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from settings import HERE, MODEL, PEER_OF, peer_python

from humanward import demo
from humanward.algorithm_config import PPOConfig
from humanward.config import parse_config
from humanward.models.tokens import make_tokens
from humanward.offline.losses import dpo_loss
from humanward.rl.advantages import generalized_advantages, returns_of
from humanward.rl.kl import k3
from humanward.rl.losses import policy_loss_sum, value_loss_sum
from humanward.rl.ops import masked_mean, masked_variance
from humanward.rl.rewards import token_rewards
from humanward.rl.rollouts import Episodes, Rollout, build_rollout

KL_COEF, CLIP, VALUE_COEF, LAMBDA = 0.1, 0.2, 0.1, 0.95
WIDTH, VOCABULARY, GROUP_SIZE, END = 10, 12, 4, 2
LENGTHS = (10, 4, 7, 2, 10, 5, 1, 6)
"""The first response is cut off, the fifth ends at the last place, the seventh is an end token alone."""

TOLERANCE = 1e-6


def fixed_batch() -> dict[str, Any]:
    """Eight responses to two prompts: tokens, logits of three policies, values of two critics, scores."""
    generator = torch.Generator().manual_seed(20)

    def normal(*shape: int, scale: float = 1.0) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64) * scale

    rows = len(LENGTHS)
    responses = torch.randint(3, VOCABULARY, (rows, WIDTH), generator=generator).tolist()
    responses = [
        row[:n] if i == 0 else [*row[: n - 1], END] for i, (row, n) in enumerate(zip(responses, LENGTHS, strict=True))
    ]
    old = normal(rows, WIDTH, VOCABULARY)
    values = normal(rows, WIDTH + 1, scale=0.5)
    return {
        "model": str(demo.path(MODEL)),
        "width": WIDTH,
        "group_size": GROUP_SIZE,
        # A prompt's last token names its row; what tokens say matters to nothing here.
        "prompts": [[1, 3, 100 + i] for i in range(rows)],
        "responses": responses,
        "logits_old": old.tolist(),
        "logits_new": (old + normal(rows, WIDTH, VOCABULARY, scale=0.3)).tolist(),
        "logits_ref": (old + normal(rows, WIDTH, VOCABULARY, scale=0.5)).tolist(),
        # Values of the states before each token and, last, of the state after the last one.
        "values_old": values.tolist(),
        "values_new": (values + normal(rows, WIDTH + 1, scale=0.3)).tolist(),
        "scores": normal(rows).tolist(),
    }


@dataclass(frozen=True)
class Given:
    """The batch as ours reads it, float64; log-probabilities and values (B, R), 0 on padding."""

    episodes: Episodes
    old: torch.Tensor
    ref: torch.Tensor
    values: torch.Tensor
    scores: torch.Tensor
    logits_new: torch.Tensor
    values_new: torch.Tensor
    after_old: torch.Tensor
    after_new: torch.Tensor

    @property
    def mask(self) -> torch.Tensor:
        """(B, R) True on real tokens."""
        return self.episodes.tokens.response_mask

    def new(self) -> torch.Tensor:
        """(B, R) new log-probabilities, with a gradient to ``logits_new``."""
        return self.chosen(self.logits_new)

    def chosen(self, logits: torch.Tensor) -> torch.Tensor:
        """(B, R) log-probabilities of the responses' tokens, 0 on padding."""
        ids = self.episodes.tokens.response_ids
        return torch.where(self.mask, logits.log_softmax(-1).gather(-1, ids[..., None]).squeeze(-1), 0.0)


def read(batch: dict[str, Any]) -> Given:
    """The batch in our types. ``after_*`` (B, R + 1) are the values of all states."""
    tokens = make_tokens(batch["prompts"], batch["responses"], 0)
    rows = len(batch["responses"])
    ended = torch.tensor([row[-1] == END for row in batch["responses"]])
    episodes = Episodes(tokens, ended, torch.arange(rows) // batch["group_size"])

    def tensor(name: str) -> torch.Tensor:
        return torch.tensor(batch[name], dtype=torch.float64)

    values_old, values_new = tensor("values_old"), tensor("values_new")
    mask = tokens.response_mask
    empty = Given(
        episodes, *(torch.empty(0),) * 2, torch.where(mask, values_old[:, :-1], 0.0), tensor("scores"),
        tensor("logits_new").requires_grad_(), values_new[:, :-1], values_old, values_new,
    )  # fmt: skip
    from dataclasses import replace

    return replace(empty, old=empty.chosen(tensor("logits_old")), ref=empty.chosen(tensor("logits_ref")))


def options(algorithm: str, **more: Any) -> PPOConfig:
    """Our configuration with the batch's coefficients."""
    return parse_config(
        {
            "algorithm": algorithm,
            "reward": {"source": "classifier"},
            "ppo": {"kl_coef": KL_COEF, "clip_range": CLIP, "missing_eos_penalty": 0.0, **more},
        }
    ).ppo


def rollout_of(given: Given, algorithm: str, **more: Any) -> Rollout:
    """Our rollout of the batch."""
    return build_rollout(
        given.episodes, given.scores, given.old, given.ref, given.values, options(algorithm, **more),
        kl_coef=KL_COEF, algorithm=algorithm,
    )  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One way to compute: ``name`` says whose; advantages by response token (or by response), losses, gradient.

    ``gradient`` is that of the whole loss by the new logits. None: not part of this comparison.
    """

    name: str
    policy_loss: float
    value_loss: float | None
    advantages: torch.Tensor
    gradient: torch.Tensor


def gradient_of(given: Given, loss: torch.Tensor) -> torch.Tensor:
    """d loss / d new logits, (B, R, V)."""
    return torch.autograd.grad(loss, given.logits_new, retain_graph=True)[0]


# --- PPO -------------------------------------------------------------------------------------


def ppo_rows(given: Given) -> list[Row]:
    """Ours; then with the score after the end; then whitened by n - 1 as well, which is TRL's."""
    rollout = rollout_of(given, "ppo")
    rows = [_ppo_row(given, "humanward", rollout.advantages, rollout.values, rollout.returns, given.mask)]
    raw, values, returns, mask = _score_after_the_end(given)
    inside = torch.where(given.mask, raw, 0.0)
    mean, variance = masked_mean(inside, given.mask), masked_variance(inside, given.mask)
    count = given.mask.sum()
    for name, spread in (
        ("+ score in the state after the end token", variance),
        ("+ variance over n - 1", variance * count / (count - 1)),
    ):
        white = torch.where(given.mask, (inside - mean) * torch.rsqrt(spread + 1e-8), 0.0)
        rows.append(_ppo_row(given, name, white, values, returns, mask))
    return rows


def _score_after_the_end(given: Given) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(advantages, values, returns, mask), (B, R): a response that leaves room has one more place, which is scored."""
    lengths = given.mask.sum(1)
    mask = torch.arange(WIDTH) <= lengths[:, None]
    values = torch.where(mask, given.after_old[:, :-1], 0.0)
    rewards = token_rewards(given.scores, given.old, given.ref, mask, kl_coef=KL_COEF)
    raw = generalized_advantages(rewards, values, torch.ones_like(rewards), mask, gae_lambda=LAMBDA)
    return raw, values, returns_of(raw, values, mask), mask


def _ppo_row(
    given: Given, name: str, advantages: torch.Tensor, values: torch.Tensor, returns: torch.Tensor, mask: torch.Tensor
) -> Row:
    policy, _ = policy_loss_sum(given.new(), given.old, advantages, given.mask, clip_range=CLIP)
    value, _ = value_loss_sum(given.values_new, values, returns, mask, clip_range=CLIP)
    policy = policy / given.mask.sum()
    value = value / mask.sum()
    return Row(name, float(policy.detach()), float(value), advantages, gradient_of(given, policy))


# --- RLOO, GRPO, DPO -------------------------------------------------------------------------------------


def rloo_rows(given: Given) -> list[Row]:
    """Ours; then with one ratio a response; then averaged over responses, which is TRL's."""
    advantages = rollout_of(given, "rloo").advantages
    per_response = advantages[:, :1]
    ours, _ = policy_loss_sum(given.new(), given.old, advantages, given.mask, clip_range=CLIP)
    # The ratio of a whole response stands on every token of it: the token's share of the loss, token by token.
    new, old = (x.sum(1, keepdim=True) for x in (given.new(), given.old))
    one = torch.ones_like(per_response).bool()
    by_token, _ = policy_loss_sum(
        new.expand_as(given.mask), old.expand_as(given.mask), advantages, given.mask, clip_range=CLIP
    )
    by_response, _ = policy_loss_sum(new, old, per_response, one, clip_range=CLIP)
    tokens, responses = given.mask.sum(), len(given.mask)
    losses = {
        "humanward": ours / tokens,
        "+ one ratio a response, clipped whole": by_token / tokens,
        "+ mean over responses": by_response / responses,
    }
    return [
        Row(name, float(loss.detach()), None, per_response[:, 0], gradient_of(given, loss))
        for name, loss in losses.items()
    ]


def grpo_rows(given: Given) -> dict[str, list[Row]]:
    """By the peer's setting: ours with the KL in the reward and in the loss, then the peer's conventions."""
    in_reward, in_loss = rollout_of(given, "grpo"), rollout_of(given, "grpo", kl_place="loss")
    new, tokens = given.new(), given.mask.sum()

    def surrogate(rollout: Rollout) -> torch.Tensor:
        return policy_loss_sum(new, given.old, rollout.advantages, given.mask, clip_range=CLIP)[0]

    penalty = torch.where(given.mask, k3(new, given.ref), 0.0)
    ratio = (new - given.old).exp()
    default = surrogate(in_reward) / tokens
    paper = (surrogate(in_loss) + KL_COEF * penalty.sum()) / tokens
    corrected = (surrogate(in_loss) + KL_COEF * (penalty * ratio).sum()) / tokens
    unreduced = torch.maximum(
        -in_loss.advantages * ratio, -in_loss.advantages * ratio.clamp(1 - CLIP, 1 + CLIP)
    )  # by token, for a mean over each response first
    each = torch.where(given.mask, unreduced + KL_COEF * penalty * ratio, 0.0).sum(1) / given.mask.sum(1)

    def row(name: str, loss: torch.Tensor, rollout: Rollout) -> Row:
        return Row(name, float(loss.detach()), None, rollout.advantages[:, 0], gradient_of(given, loss))

    ours = [
        row("humanward", default, in_reward),
        row("humanward, kl_place = 'loss'", paper, in_loss),
    ]
    importance = row("+ k3 times the ratio", corrected, in_loss)
    return {
        "grpo": [*ours, importance],
        "grpo, use_bias_correction_kl=False": ours,
        "grpo, loss_type='grpo'": [*ours, importance, row("+ mean over each response first", each.mean(), in_loss)],
    }


def dpo_rows(given: Given) -> list[Row]:
    """Ours on sums over responses; the first half of the rows are chosen, the second rejected."""
    new = given.new()
    leaf = new.detach().requires_grad_()
    chosen, rejected = leaf.sum(1).chunk(2)
    ref_chosen, ref_rejected = given.ref.sum(1).chunk(2)
    loss = dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta=KL_COEF).mean()
    gradient = torch.where(given.mask, torch.autograd.grad(loss, leaf)[0], 0.0)
    return [Row("humanward", float(loss.detach()), None, torch.zeros(0), gradient)]


# --- holding together -------------------------------------------------------------------------------------


def peer_row(name: str, found: dict[str, Any]) -> Row:
    """A peer's numbers as a row."""
    losses = found.get("logged") or {"loss/policy_avg": found["loss"], "loss/value_avg": None}

    def tensor(values: Any) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64)

    return Row(
        name,
        losses["loss/policy_avg"],
        losses["loss/value_avg"],
        tensor(found.get("advantages", [])),
        tensor(found["loss_gradient"]),
    )


def differences(row: Row, peer: Row) -> dict[str, float | None]:
    """What separates a row from the peer's: absolute differences of losses, largest of advantages and gradients."""
    return {
        "policy_loss": abs(row.policy_loss - peer.policy_loss),
        "value_loss": None if peer.value_loss is None else abs(float(row.value_loss or 0.0) - peer.value_loss),
        "advantages": float((row.advantages - peer.advantages).abs().max()) if len(peer.advantages) else None,
        "gradient": float((row.gradient - peer.gradient).abs().max()),
    }


def run_peer(venvs: Path, peer: str, which: str, batch: Path, out: Path) -> dict[str, Any]:
    """The peer's numbers on the batch, computed in its own environment."""
    command = [str(peer_python(venvs, peer)), str(HERE / "trl_losses.py"), which, str(batch), str(out)]
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{peer}: trl_losses.py {which} ended with code {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(out.read_text(encoding="utf-8"))


def compare_all(venvs: Path) -> dict[str, Any]:
    """All tables: by comparison the rows of ours with their distance to the peer's, which stands last."""
    batch = fixed_batch()
    given = read(batch)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "batch.json"
        path.write_text(json.dumps(batch), encoding="utf-8")
        ppo = run_peer(venvs, PEER_OF["ppo"], "ppo", path, Path(folder) / "ppo.json")
        online = run_peer(venvs, PEER_OF["rloo"], "online", path, Path(folder) / "online.json")
    tables = {"ppo": (ppo_rows(given), ppo["losses"]), "rloo": (rloo_rows(given), online["rloo"])}
    tables |= {name: (rows, online[name]) for name, rows in grpo_rows(given).items()}
    tables["dpo"] = (dpo_rows(given), online["dpo"])
    found: dict[str, Any] = {"optimizer_steps": ppo["optimizer_steps"], "tables": {}}
    for name, (rows, theirs) in tables.items():
        peer = peer_row(PEER_OF[name.split(",")[0]], theirs)
        lines = [
            {"name": r.name, "policy_loss": r.policy_loss, "value_loss": r.value_loss, "off": differences(r, peer)}
            for r in (*rows, peer)
        ]
        worst = max(x for x in lines[-2]["off"].values() if x is not None)
        found["tables"][name] = {"rows": lines, "explained": worst < TOLERANCE}
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables; exit code 1 where a difference is left unexplained."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venvs", type=Path, required=True, help="folder that make_venvs.py filled")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    options_ = parser.parse_args(arguments)
    found = compare_all(options_.venvs.expanduser().resolve())
    if options_.json:
        print(json.dumps(found))
    else:
        for name, table in found["tables"].items():
            print(f"{name}: {'explained' if table['explained'] else 'NOT EXPLAINED'}")
            for row in table["rows"]:
                value = "" if row["value_loss"] is None else f"  value {row['value_loss']:+.7f}"
                off = "  ".join(f"{k} {v:.1e}" for k, v in row["off"].items() if v is not None)
                print(f"  {row['name']:44} policy {row['policy_loss']:+.7f}{value}  off by {off}")
        for name, steps in found["optimizer_steps"].items():
            print(f"TRL PPO, {name}: optimizer steps by update {steps['by_update']}, logged {steps['logged']}")
    sys.exit(0 if all(table["explained"] for table in found["tables"].values()) else 1)


if __name__ == "__main__":
    main()
