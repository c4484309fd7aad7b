"""Scores become per-token rewards."""

from __future__ import annotations

import pytest
import torch

from humanward.algorithm_config import PPOConfig
from humanward.models.tokens import make_tokens
from humanward.rl.rewards import bounded, final_scores, token_rewards
from humanward.rl.rollouts import Episodes, build_rollout

MASK = torch.tensor([[True, True, True, False], [True, True, True, True], [True, False, False, False]])
LOGPROBS = torch.tensor([[-1.0, -2.0, -0.5, 0.0], [-0.25, -1.0, -2.0, -3.0], [-4.0, 0.0, 0.0, 0.0]]).double()
REF_LOGPROBS = torch.tensor([[-1.5, -1.0, -0.5, 0.0], [-0.25, -1.5, -2.5, -1.0], [-4.5, 0.0, 0.0, 0.0]]).double()
SCORES = torch.tensor([1.0, -2.0, 0.5]).double()


def check_rewards(token_rewards=token_rewards) -> None:
    """beta = .1. k1 by row: [.5, -1, 0], [0, .5, .5, -2], [.5].

    Row 1: [-.05, .1, 0 + 1]; row 2: [0, -.05, -.05, .2 - 2]; row 3: [-.05 + .5]. Row sums: 1 - .1 * (-.5) = 1.05;
    -2 - .1 * (-1) = -1.9; .5 - .1 * .5 = .45. The score stands on the last real token, which is the EOS itself.
    """
    rewards = token_rewards(SCORES, LOGPROBS, REF_LOGPROBS, MASK, kl_coef=0.1)
    expected = torch.tensor([[-0.05, 0.1, 1.0, 0.0], [0.0, -0.05, -0.05, -1.8], [0.45, 0.0, 0.0, 0.0]]).double()
    torch.testing.assert_close(rewards, expected, rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(rewards.sum(1), torch.tensor([1.05, -1.9, 0.45]).double(), rtol=1e-6, atol=0)


def test_rewards() -> None:
    check_rewards()


def test_padding_leaks_nothing() -> None:
    nan = torch.where(MASK, 0.0, float("nan"))
    rewards = token_rewards(SCORES, LOGPROBS + nan, REF_LOGPROBS - nan, MASK, kl_coef=0.1)
    assert torch.equal(rewards, token_rewards(SCORES, LOGPROBS, REF_LOGPROBS, MASK, kl_coef=0.1))


def test_without_kl_only_the_score_remains() -> None:
    rewards = token_rewards(SCORES, LOGPROBS, REF_LOGPROBS, MASK, kl_coef=0.0)
    assert torch.equal(rewards[0], torch.tensor([0.0, 0.0, 1.0, 0.0]).double())


def test_a_response_without_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="no real token"):
        token_rewards(SCORES, LOGPROBS, REF_LOGPROBS, MASK & False, kl_coef=0.1)


def test_missing_eos_penalty_length_penalty_and_clip() -> None:
    scores, ended, lengths = torch.tensor([3.0, 3.0, -3.0]), torch.tensor([True, False, False]), torch.tensor([4, 8, 2])

    def final(missing: float, length: float, clip: float | None) -> list[float]:
        return final_scores(
            scores, ended, lengths, missing_eos_penalty=missing, length_penalty=length, clip=clip
        ).tolist()

    assert final(0.0, 0.0, None) == [3.0, 3.0, -3.0]
    assert final(1.0, 0.0, None) == [3.0, 2.0, -4.0]
    # The clip bounds what the source says; the penalties come after it and are never clipped away.
    assert final(1.0, 0.0, 2.0) == [2.0, 1.0, -3.0]
    # .25 a token: 4, 8 and 2 tokens cost 1, 2 and .5.
    assert final(1.0, 0.25, 2.0) == [1.0, -1.0, -3.5]


def rollout(**changes):
    tokens = make_tokens([[1], [2, 3], [4]], [[5, 6, 7], [5, 6, 7, 8], [9]], pad=0)
    episodes = Episodes(tokens, torch.tensor([True, False, True]), torch.arange(3))
    values = torch.where(MASK, torch.linspace(-1, 1, 12).double().view(3, 4), 0.0)
    config = PPOConfig(**{"missing_eos_penalty": 1.0, **changes})
    return build_rollout(episodes, SCORES, LOGPROBS, REF_LOGPROBS, values, config, kl_coef=0.1), values


def check_returns_before_whitening(rollout=rollout) -> None:
    """With lambda 1 the return is the sum of the rewards to come, whitened advantages or not."""
    for whiten_advantages in (True, False):
        made, _ = rollout(gae_lambda=1.0, whiten_advantages=whiten_advantages)
        # Row 1: [-.05 + .1 + 1, .1 + 1, 1]; row 2 with the penalty of 1: [-2.9, -2.9, -2.85, -2.8]; row 3: .45
        expected = [[1.05, 1.1, 1.0, 0.0], [-2.9, -2.9, -2.85, -2.8], [0.45, 0.0, 0.0, 0.0]]
        torch.testing.assert_close(made.returns, torch.tensor(expected).double(), rtol=1e-6, atol=1e-12)


def test_returns_do_not_depend_on_whitening() -> None:
    check_returns_before_whitening()


def test_advantages_are_whitened_on_real_tokens_only() -> None:
    made, _ = rollout()
    real = made.advantages[MASK]
    assert float(real.mean()) == pytest.approx(0, abs=1e-12)
    assert float(real.var(correction=0)) == pytest.approx(1, rel=1e-6)
    assert not bool(made.advantages[~MASK].any())
    plain, values = rollout(whiten_advantages=False)
    torch.testing.assert_close(plain.advantages, torch.where(MASK, plain.returns - values, 0.0), rtol=1e-12, atol=1e-12)


def test_scores_are_kept_as_the_source_gave_them() -> None:
    made, _ = rollout(score_clip=0.1)
    assert torch.equal(made.scores, SCORES)


def test_a_rollout_indexes_and_counts_by_episode() -> None:
    made, _ = rollout()
    part = made[torch.tensor([2, 0])]
    assert len(made) == 3
    assert len(part) == 2
    assert part.tokens.prompt_ids.tolist() == [[0, 4], [0, 1]]
    assert part.scores.tolist() == [0.5, 1.0]


def test_bounded_scores() -> None:
    """sigmoid(log 3 - 0) = 3/4 and sigmoid(log 3 - log 3) = 1/2, mean 5/8; sigmoid(-log 4) = 1/5 twice."""
    scores = torch.tensor([3.0, 0.25]).double().log()
    references = torch.tensor([[1.0, 3.0], [1.0, 1.0]]).double().log()
    torch.testing.assert_close(bounded(scores, references), torch.tensor([0.625, 0.2]).double(), rtol=1e-6, atol=0)
    one = bounded(scores, torch.zeros(1).double())
    torch.testing.assert_close(one, torch.tensor([0.75, 0.2]).double(), rtol=1e-6, atol=0)
    assert bounded(torch.tensor([1e4, -1e4]), torch.zeros(1)).tolist() == [1.0, 0.0]
