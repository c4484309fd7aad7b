"""The off-policy losses against numbers worked by hand, in float64, and their gradients by finite differences."""

from __future__ import annotations

import math

import pytest
import torch

from humanward.offline.losses import (
    dpo_loss,
    ipo_loss,
    kto_loss,
    kto_reference_point,
    log_odds,
    orpo_loss,
    sft_loss,
)


def row(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


FOUR = row(-2.0, -4.0), row(-3.0, -1.0), row(-2.5, -3.0), row(-2.5, -3.0)
"""Two pairs: log-probabilities of chosen, rejected, and both under the reference.

h = (-2 + 2.5) - (-3 + 2.5) = 1 for the first, and (-4 + 3) - (-1 + 3) = -3 for the second.
"""


def test_sft_is_the_negative_log_likelihood() -> None:
    assert sft_loss(row(-2.0, -0.5)).tolist() == [2.0, 0.5]


def test_dpo() -> None:
    """beta .5: logits .5 and -1.5. -log sigmoid(x) = log(1 + exp(-x)): log(1 + .60653066) and log(1 + 4.48168907)."""
    expected = [0.47407698418010669, 1.7014132779827524]
    torch.testing.assert_close(dpo_loss(*FOUR, beta=0.5), row(*expected), rtol=1e-12, atol=0)


def test_dpo_with_label_smoothing() -> None:
    """-log sigmoid(-x) = -log sigmoid(x) + x, so that a share e the wrong way round adds e x: .1 * .5 and .1 * -1.5."""
    expected = [0.47407698418010669 + 0.05, 1.7014132779827524 - 0.15]
    torch.testing.assert_close(dpo_loss(*FOUR, beta=0.5, label_smoothing=0.1), row(*expected), rtol=1e-12, atol=0)


def test_smoothed_dpo_is_least_where_the_preference_is_as_sure_as_the_labels() -> None:
    """e = 1/4: sigmoid(beta h) = 3/4 at beta h = log 3, where the loss is the entropy of (3/4, 1/4)."""
    zero = row(0.0)
    at = [
        float(dpo_loss(row(math.log(3) + x), zero, zero, zero, beta=1.0, label_smoothing=0.25))
        for x in (-0.01, 0, 0.01)
    ]
    assert at[1] == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25), rel=1e-12)
    assert at[1] < min(at[0], at[2])


@pytest.mark.parametrize("label_smoothing", [0.0, 0.3])
def test_dpo_starts_at_log_2(label_smoothing: float) -> None:
    """Where policy and reference agree h is exactly 0, whatever the log-probabilities and beta."""
    chosen, rejected = row(-12.25, -0.5), row(-3.75, -80.0)
    loss = dpo_loss(chosen, rejected, chosen, rejected, beta=0.37, label_smoothing=label_smoothing)
    assert loss.tolist() == pytest.approx([math.log(2)] * 2, rel=1e-15)


def test_ipo() -> None:
    """beta .1: the margin is drawn to 1 / .2 = 5 nats. (1 - 5)^2 = 16 and (-3 - 5)^2 = 64; beta .5: to 1."""
    assert ipo_loss(*FOUR, beta=0.1).tolist() == pytest.approx([16.0, 64.0], rel=1e-12)
    assert ipo_loss(*FOUR, beta=0.5).tolist() == pytest.approx([0.0, 16.0], abs=1e-12)


def test_log_odds() -> None:
    """P = 1/2, 1/5, 4/5: odds 1, 1/4, 4."""
    expected = row(0.0, -math.log(4), math.log(4))
    torch.testing.assert_close(log_odds(row(0.5, 0.2, 0.8).log()), expected, rtol=1e-12, atol=1e-12)


def test_log_odds_stay_finite_at_the_ends() -> None:
    """P = exp(-800) has the log odds -800; P = 1 is held at 1 - 1e-6, whose log odds are log(1e6) = 13.8155."""
    assert log_odds(row(-800.0, 0.0)).tolist() == pytest.approx([-800.0, 13.815510057964274], rel=1e-6)


def test_orpo() -> None:
    """P = 1/2 and 1/5: odds 1 and 1/4, ratio 4; -log(4/5) = log 1.25. Loss log 2 + beta log 1.25."""
    loss = orpo_loss(row(0.5).log(), row(0.2).log(), beta=0.1)
    assert float(loss) == pytest.approx(0.69314718055994531 + 0.1 * 0.22314355131420976, rel=1e-12)


def test_kto() -> None:
    """r = 2 and 1, z0 = 1/2, beta 1: 1 - sigmoid(1.5) = 1 / (1 + 4.48168907) = .18242552 for the desirable one,

    1 - sigmoid(.5 - 1) = sigmoid(.5) = 1 / (1 + .60653066) = .62245933 for the other; weights 2 and 3.
    """
    loss = kto_loss(
        row(-1.0, -2.0),
        row(-3.0, -3.0),
        torch.tensor([True, False]),
        row(0.5)[0],
        beta=1.0,
        desirable_weight=2.0,
        undesirable_weight=3.0,
    )
    assert loss.tolist() == pytest.approx([2 * 0.18242552380635635, 3 * 0.62245933120185459], rel=1e-12)


def test_kto_starts_at_one_half() -> None:
    """Where policy and reference agree r = z0 = 0: every response loses 1 - sigmoid(0)."""
    same = row(-1.0, -7.0)
    loss = kto_loss(same, same, torch.tensor([True, False]), kto_reference_point(same, same), beta=0.1)
    assert loss.tolist() == [0.5, 0.5]


def test_the_reference_point_is_the_mean_log_ratio_and_never_below_0() -> None:
    """(1 + 2) / 2 = 1.5; (1 - 3) / 2 = -1, which an estimate of KL cannot be."""
    logprobs = row(-1.0, -2.0).requires_grad_(True)
    point = kto_reference_point(logprobs, row(-2.0, -4.0))
    assert float(point) == 1.5
    assert not point.requires_grad
    assert float(kto_reference_point(row(-1.0, -5.0), row(-2.0, -2.0))) == 0.0


def test_gradients_by_hand() -> None:
    """Of DPO by the chosen: -beta sigmoid(-beta h); at h = 0: -beta / 2. The rejected has the opposite.

    Of IPO: 2 (h - 1 / (2 beta)); at h = 0 and beta .1: -10. Of KTO at 0: -+ beta / 4. Of ORPO by the chosen's mean m,
    with d log odds / dm = 1 / (1 - P): -1 - beta (1 - sigmoid(log ratio)) / (1 - P); P = 1/2 and 1/5, beta .1: ratio 4,
    so -1 - .1 * .2 * 2 = -1.04; by the rejected's: +.1 * .2 / (1 - .2) = .025.
    """

    def gradient(function, *values: float) -> list[float]:
        inputs = [row(v).requires_grad_(True) for v in values]
        return [float(g) for g in torch.autograd.grad(function(*inputs).sum(), inputs)]

    zero = row(0.0)
    assert gradient(lambda w, r: dpo_loss(w, r, zero, zero, beta=0.4), 0.0, 0.0) == pytest.approx([-0.2, 0.2])
    assert gradient(lambda w, r: ipo_loss(w, r, zero, zero, beta=0.1), 0.0, 0.0) == pytest.approx([-10.0, 10.0])
    assert gradient(lambda w, r: orpo_loss(w, r, beta=0.1), math.log(0.5), math.log(0.2)) == pytest.approx(
        [-1.04, 0.025]
    )
    for desirable, expected in ((True, -0.1), (False, 0.1)):
        kind = torch.tensor([desirable])
        assert gradient(lambda p, k=kind: kto_loss(p, zero, k, zero[0], beta=0.4), 0.0) == pytest.approx([expected])


@pytest.mark.parametrize(
    "loss",
    [
        lambda w, r: dpo_loss(w, r, row(-2.5, -3.0), row(-2.5, -3.0), beta=0.7),
        lambda w, r: dpo_loss(w, r, row(-2.5, -3.0), row(-2.5, -3.0), beta=0.7, label_smoothing=0.2),
        lambda w, r: ipo_loss(w, r, row(-2.5, -3.0), row(-2.5, -3.0), beta=0.3),
        lambda w, r: orpo_loss(w, r, beta=0.5),
        lambda w, r: sft_loss(w) + 0 * r,
        lambda w, r: kto_loss(w, r, torch.tensor([True, False]), row(0.25)[0], beta=0.6),
    ],
    ids=["dpo", "cdpo", "ipo", "orpo", "sft", "kto"],
)
def test_gradients_by_finite_differences(loss) -> None:
    inputs = row(-2.0, -4.0).requires_grad_(True), row(-3.0, -1.0).requires_grad_(True)
    assert torch.autograd.gradcheck(loss, inputs, eps=1e-6, atol=1e-8)


def test_swapping_chosen_and_rejected_flips_the_gradient_at_the_start() -> None:
    chosen, rejected = row(-2.0).requires_grad_(True), row(-3.0).requires_grad_(True)
    reference = chosen.detach(), rejected.detach()
    right = torch.autograd.grad(dpo_loss(chosen, rejected, *reference, beta=0.3).sum(), (chosen, rejected))
    wrong = torch.autograd.grad(dpo_loss(rejected, chosen, *reference[::-1], beta=0.3).sum(), (chosen, rejected))
    assert [float(g) for g in right] == [-float(g) for g in wrong] == pytest.approx([-0.15, 0.15])


def test_losses_are_finite_however_far_apart() -> None:
    far = row(-1e4, 0.0), row(0.0, -1e4), row(0.0, 0.0), row(0.0, 0.0)
    assert bool(torch.isfinite(dpo_loss(*far, beta=1.0, label_smoothing=0.1)).all())
    assert bool(torch.isfinite(orpo_loss(far[0], far[1], beta=1.0)).all())
    kinds = torch.tensor([True, False])
    assert bool(torch.isfinite(kto_loss(far[0], far[1], kinds, row(0.0)[0], beta=1.0)).all())


# --- the optimum in closed form ------------------------------------------------------------------------------------

REWARDS = row(1.5, -0.5, 0.25, 0.0, 2.0, -1.0)
REFERENCE = row(0.05, 0.3, 0.1, 0.25, 0.1, 0.2)


def optimum(loss) -> torch.Tensor:
    """The policy over six responses that minimises ``loss(log p of the first, of the second, weights)``.

    Every ordered couple of responses is a pair and weighs how often its first is preferred under the rewards,
    sigmoid(r_i - r_j) (Bradley-Terry).
    """
    logits = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    first, second = (index.flatten() for index in torch.meshgrid(torch.arange(6), torch.arange(6), indexing="ij"))
    weights = torch.sigmoid(REWARDS[first] - REWARDS[second])
    solver = torch.optim.LBFGS(
        [logits], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-15, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        solver.zero_grad()
        logprobs, reference = logits.log_softmax(0), REFERENCE.log()
        total = (weights * loss(logprobs[first], logprobs[second], reference[first], reference[second])).sum()
        total.backward()
        return total

    solver.step(closure)
    return logits.detach().softmax(0)


def test_dpo_ends_at_the_optimum_of_reward_less_kl() -> None:
    """p* is proportional to q exp(r / beta) (DPO, equation 4): what PPO would reach with the true reward."""
    found = optimum(lambda *four: dpo_loss(*four, beta=0.5))
    exact = REFERENCE * (REWARDS / 0.5).exp()
    assert float((found - exact / exact.sum()).abs().sum()) / 2 < 1e-6
    # With the reference forgotten it ends elsewhere, so the bar tells the two apart.
    wrong = optimum(lambda w, r, qw, qr: dpo_loss(w, r, 0 * qw, 0 * qr, beta=0.5))
    assert float((wrong - exact / exact.sum()).abs().sum()) / 2 > 0.05


def test_ipo_ends_at_the_optimum_of_preference_less_kl() -> None:
    """p* is proportional to q exp(P / beta), P_i how often response i is preferred to a random one (IPO, section 5).

    By hand: a couple adds (h - c)^2 s + (h + c)^2 (1 - s) = h^2 - 2 c (2 s - 1) h + c^2 with c = 1 / (2 beta), h the
    difference of log p/q and s how often the first is preferred. Least squares over all couples give
    log p/q = mean over j of c (2 s_ij - 1) = (P_i - 1/2) / beta, up to a constant.
    """
    found = optimum(lambda *four: ipo_loss(*four, beta=0.2))
    preferred = torch.sigmoid(REWARDS[:, None] - REWARDS[None, :]).mean(1)
    exact = REFERENCE * (preferred / 0.2).exp()
    assert float((found - exact / exact.sum()).abs().sum()) / 2 < 1e-6


def test_smoothed_dpo_ends_nearer_to_the_reference() -> None:
    """A quarter of the labels taken to be wrong: log odds of the preferences shrink, and so does KL."""

    def kl(policy: torch.Tensor) -> float:
        return float((policy * (policy / REFERENCE).log()).sum())

    plain = optimum(lambda *four: dpo_loss(*four, beta=0.5))
    smoothed = optimum(lambda *four: dpo_loss(*four, beta=0.5, label_smoothing=0.25))
    assert 0 < kl(smoothed) < 0.5 * kl(plain)
