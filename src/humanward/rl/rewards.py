"""Per-token rewards from sequence scores and the KL penalty. Legend: B batch, R response length."""

from __future__ import annotations

import torch

from humanward.rl.kl import k1


def final_scores(
    scores: torch.Tensor,
    ended: torch.Tensor,
    lengths: torch.Tensor,
    *,
    missing_eos_penalty: float,
    length_penalty: float,
    clip: float | None,
) -> torch.Tensor:
    """(B,) scores as training uses them: clipped to +-``clip``, less ``missing_eos_penalty`` where a response was cut
    off (``ended`` (B,) False), less ``length_penalty`` times its tokens (``lengths`` (B,)).
    """
    if clip is not None:
        scores = scores.clamp(-clip, clip)
    scores = torch.where(ended, scores, scores - missing_eos_penalty)
    return scores - length_penalty * lengths


def bounded(scores: torch.Tensor, references: torch.Tensor) -> torch.Tensor:
    """(B,) in (0, 1): mean over the references of sigmoid(score - reference); ``references`` (B, M) or (M,).

    .5 where a response is as good as the reference; what is far better gains nothing more. Source: Fu et al. 2025,
    Preference As Reward (arXiv 2502.18770), equation 5, where a reference is an answer of the reference policy to the
    same prompt.
    """
    return torch.sigmoid(scores[:, None] - references).mean(1)


def token_rewards(
    scores: torch.Tensor, logprobs: torch.Tensor, ref_logprobs: torch.Tensor, mask: torch.Tensor, *, kl_coef: float
) -> torch.Tensor:
    """(B, R): -kl_coef * k1 at every real token, and the score added at the last real one (the EOS itself, if any).

    The sum over a row is score - kl_coef * sum of k1. Source: Ziegler et al. 2019, equation 2.
    """
    rewards = torch.where(mask, -kl_coef * k1(logprobs, ref_logprobs), 0.0)
    last = mask.sum(1) - 1
    if bool((last < 0).any()):
        raise ValueError("a response holds no real token, so its score has no place")
    return rewards.scatter_add(1, last[:, None], scores.to(rewards)[:, None])
