"""Goldens of the whole path: settings, rewards to advantages, and two real updates, all worked by hand.

Goldens of single functions stand with their unit tests (test_ops, test_advantages, test_losses, test_kl, test_rewards).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import torch
from models import tiny
from rl import checks
from rl.checks import make_trainer, step

from humanward.algorithm_config import PPOConfig
from humanward.models.tokens import make_tokens
from humanward.rl import losses
from humanward.rl.rollouts import Episodes, Rollout, build_rollout
from humanward.rl.trainer import OnPolicyTrainer


def f64(rows: list) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


# --- settings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("gamma", 1.0),
        ("gae_lambda", 0.95),
        ("clip_range", 0.2),
        ("value_coef", 0.1),
        ("epochs", 4),
        ("adam_epsilon", 1e-5),
        ("max_gradient_norm", 1.0),
        ("schedule", "linear"),
        ("kl_coef", 0.05),
        ("kl_target", 6.0),
        ("kl_horizon", 10_000),
        ("target_update_kl", 0.02),
        ("whiten_advantages", True),
        ("whiten_rewards", False),
    ],
)
def test_a_default_is_the_reference_value(name: str, value: object) -> None:
    """As lm-human-preferences has them, and "The N+ Implementation Details" the fixed KL coefficient."""
    assert getattr(PPOConfig(), name) == value


def test_the_log_ratio_is_clamped_at_20() -> None:
    assert losses.LOG_RATIO_LIMIT == 20


# --- from scores to advantages -----------------------------------------------------------------------------------


def built(
    responses: list[list[int]],
    scores: list[float],
    values: list[list[float]],
    logprobs: list[list[float]] | None = None,
    ref_logprobs: list[list[float]] | None = None,
    *,
    kl_coef: float = 0.0,
    **changes: float,
) -> Rollout:
    """A rollout of responses that all ended."""
    tokens = make_tokens([[1]] * len(responses), responses, pad=0)
    zeros = torch.zeros(tokens.response_ids.shape, dtype=torch.float64)
    episodes = Episodes(tokens, torch.ones(len(responses)).bool(), torch.arange(len(responses)))
    return build_rollout(
        episodes,
        f64(scores),
        zeros if logprobs is None else f64(logprobs),
        zeros if ref_logprobs is None else f64(ref_logprobs),
        f64(values),
        PPOConfig(**{"whiten_advantages": False, **changes}),  # type: ignore[arg-type]
        kl_coef=kl_coef,
    )


def test_gamma_and_lambda_of_the_settings_reach_the_advantages() -> None:
    """Score 1 at the end of three tokens, V = .5, -.25, .75; gamma .9, lambda .7, so .63 carries over.

    t = 2: 1 - .75 = .25.   t = 1: 0 + .9 * .75 + .25 = .925, + .63 * .25 = 1.0825.
    t = 0: 0 + .9 * -.25 - .5 = -.725, + .63 * 1.0825 = -.043025.   Returns: A + V = .456975, .8325, 1.
    """
    made = built([[5, 6, 7]], [1.0], [[0.5, -0.25, 0.75]], gamma=0.9, gae_lambda=0.7)
    torch.testing.assert_close(made.advantages, f64([[-0.043025, 1.0825, 0.25]]), rtol=1e-6, atol=0)
    torch.testing.assert_close(made.returns, f64([[0.456975, 0.8325, 1.0]]), rtol=1e-6, atol=0)


def test_kl_score_and_gae_together() -> None:
    """The terminal golden as a rollout: beta .1, log p - log q = 1, -2, 0 and score 1, so r = -.1, .2, 1.

    V = .5, -.25, .75, gamma 1, lambda .95.  t = 2: 1 - .75 = .25.  t = 1: .2 + .75 + .25 = 1.2, + .95 * .25 = 1.4375.
    t = 0: -.1 - .25 - .5 = -.85, + .95 * 1.4375 = .515625.
    """
    made = built(
        [[5, 6, 7]],
        [1.0],
        [[0.5, -0.25, 0.75]],
        logprobs=[[-1.0, -3.0, -2.0]],
        ref_logprobs=[[-2.0, -1.0, -2.0]],
        kl_coef=0.1,
    )
    torch.testing.assert_close(made.rewards, f64([[-0.1, 0.2, 1.0]]), rtol=1e-6, atol=0)
    torch.testing.assert_close(made.advantages, f64([[0.515625, 1.4375, 0.25]]), rtol=1e-6, atol=0)


def test_reward_whitening_keeps_the_mean_and_rewards_length() -> None:
    """Rewards 1 | 0, 5: mean 2, population variance (1 + 4 + 9) / 3 = 14 / 3; x becomes 2 + (x - 2) / sqrt(14 / 3).

    The documented fault of the option: a token that earned 0 now earns 2 - 2 / sqrt(14 / 3) = 1.0742, so
    a longer response is worth more.
    """
    responses, scores, values = [[5], [6, 7]], [1.0, 5.0], [[0.0, 0.0], [0.0, 0.0]]
    off = built(responses, scores, values)
    torch.testing.assert_close(off.rewards, f64([[1.0, 0.0], [0.0, 5.0]]), rtol=0, atol=0)
    on = built(responses, scores, values, whiten_rewards=True)
    s = math.sqrt(14 / 3 + 1e-8)
    torch.testing.assert_close(on.rewards, f64([[2 - 1 / s, 0.0], [2 - 2 / s, 2 + 3 / s]]), rtol=1e-6, atol=0)
    assert float(on.rewards[1, 0]) == pytest.approx(1.0742, abs=5e-5)


# --- two updates -------------------------------------------------------------------------------------------------


@dataclass
class Plain:
    """Means over the real tokens of a rollout, by a loop over rows and tokens."""

    policy_loss: torch.Tensor
    value_loss: torch.Tensor
    clip_fraction: float
    value_clip_fraction: float
    update_kl: float


def plainly(trainer: OnPolicyTrainer, rollout: Rollout, temperature: float) -> Plain:
    """PPO's losses at the present weights: the model's own unpadded forward, one row and one token at a time."""
    config, head = trainer.config, trainer.value_head
    policy, value, clipped, value_clipped, moved, count = [], [], 0, 0, 0.0, 0
    for row in range(len(rollout)):
        prompt = rollout.tokens.prompt_ids[row][rollout.tokens.prompt_mask[row]]
        response = rollout.tokens.response_ids[row][rollout.tokens.response_mask[row]]
        out = trainer.base.model(input_ids=torch.cat([prompt, response])[None], output_hidden_states=True)
        table = (out.logits[0, len(prompt) - 1 : -1] / temperature).log_softmax(-1)
        hidden = out.hidden_states[-1][0, len(prompt) - 1 : -1]
        for t, token in enumerate(response.tolist()):
            advantage, old = float(rollout.advantages[row, t]), float(rollout.logprobs[row, t])
            ratio, difference = (table[t, token] - old).exp(), float(table[t, token].detach()) - old
            free, held = -advantage * ratio, -advantage * min(max(ratio, 1 - config.clip_range), 1 + config.clip_range)
            policy.append(max(free, held))
            clipped += int(held > free)
            moved += math.exp(difference) - 1 - difference
            before, target = float(rollout.values[row, t]), float(rollout.returns[row, t])
            v = hidden[t] @ head.linear.weight[0] + head.linear.bias[0]
            held = before + min(max(v - before, -config.value_clip_range), config.value_clip_range)
            value.append(max((v - target) ** 2, (held - target) ** 2) / 2)
            value_clipped += int((held - target) ** 2 > (v - target) ** 2)
            count += 1
    return Plain(sum(policy) / count, sum(value) / count, clipped / count, value_clipped / count, moved / count)


def test_two_updates_by_hand() -> None:
    """Gradients, their clipping, Adam with its epsilon and both learning rates, and every mean that is logged.

    One minibatch, two epochs: the first update has ratio 1, in the second some ratios and values are clipped. Adam with
    b1 = .9, b2 = .999: m = b1 m + (1 - b1) g, v = b2 v + (1 - b2) g^2,
    w -= lr * (m / (1 - b1^k)) / (sqrt(v / (1 - b2^k)) + 1e-5).
    """
    limit, temperature = 0.25, 0.7

    def trainer() -> OnPolicyTrainer:
        return make_trainer(
            checks.numbers,
            moved=0.2,
            minibatch_size=8,
            micro_batch_size=2,
            epochs=2,
            learning_rate=0.03,
            critic_learning_rate=0.02,
            clip_range=0.15,
            value_clip_range=0.03,
            value_coef=0.3,
            max_gradient_norm=limit,
            sampling={"temperature": temperature, "max_new_tokens": 5},
        )[0]

    real, seen = trainer(), []
    real.optimizer.register_step_pre_hook(
        lambda *_: seen.append((real.snapshot(), [p.grad.double() for p in real.parameters]))
    )
    metrics, rollout = step(real)
    assert len(seen) == 2
    twin, plain, norms = trainer(), [], []
    for weights, gradients in seen:
        twin.restore(weights)
        with twin.base.role("policy"):
            plain.append(plainly(twin, rollout, temperature))
            loss = plain[-1].policy_loss + 0.3 * plain[-1].value_loss
            expected = torch.autograd.grad(loss, twin.parameters)
        norms.append(math.sqrt(sum(float((g.double() ** 2).sum()) for g in expected)))
        for ours, by_hand in zip(gradients, expected, strict=True):
            torch.testing.assert_close(ours, by_hand.double() * min(1, limit / norms[-1]), rtol=2e-3, atol=2e-6)
    assert max(norms) > limit, "no gradient was clipped, so the test shows nothing"
    assert 0 < plain[1].clip_fraction < 1
    assert 0 < plain[1].value_clip_fraction < 1
    assert plain[0].clip_fraction == 0
    assert metrics["ppo/gradient_norm"] == pytest.approx(sum(norms) / 2, rel=1e-4)
    for name in ("policy_loss", "value_loss", "clip_fraction", "value_clip_fraction"):
        by_hand = sum(float(torch.as_tensor(getattr(p, name)).detach()) for p in plain) / 2
        assert metrics[f"ppo/{name}"] == pytest.approx(by_hand, rel=1e-4, abs=1e-6), name
    assert metrics["ppo/update_kl"] == pytest.approx(plain[1].update_kl, rel=1e-3)

    final = tiny.weights(real.parameters)
    policy_count = len(real.policy_parameters)
    for i in range(len(final)):
        rate = 0.03 if i < policy_count else 0.02
        m, v, w = 0.0, 0.0, seen[0][0][str(i)].double()
        for k, (_, gradients) in enumerate(seen, start=1):
            g = gradients[i]
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            w = w - rate * (m / (1 - 0.9**k)) / ((v / (1 - 0.999**k)).sqrt() + 1e-5)
        torch.testing.assert_close(final[i].double(), w, rtol=1e-5, atol=1e-7)
