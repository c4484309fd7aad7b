"""What choosing the best of n answers by the reward reaches: reward and judged toxicity against KL, and what that says.

Best-of-n trains nothing, so it tells the reward from the training: where it does not move the judge, no policy trained
on that reward can be expected to, and where a policy gets less than it at the same KL, the training is at fault.
P prompts, N answers each.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from humanward.errors import InputError
from humanward.evaluation.checks import SATURATED
from humanward.evaluation.numerals import decimal, difference_words, digits_for, interval, plain, plural
from humanward.evaluation.statistics import Difference, Estimate, Floats, mean_interval, paired_difference
from humanward.records import from_json, to_json
from humanward.run_dir import write_text

MIN_PROMPTS = 20  # below, an interval that holds 0 says more about the sample than about the reward
MIN_GAIN = 0.1  # standard deviations of the reward: a normal one gains .56 with n = 2 and 1.77 with n = 16


@dataclass(frozen=True)
class PromptAnswers:
    """Answers to one prompt with the reward that training uses, the judge's probability (None where either could not
    score) and, of a trained policy, sum log p(policy) - log p(reference) over the tokens in nats; 0 for the reference.
    """

    prompt_id: str
    prompt: str
    texts: tuple[str, ...]
    reward: tuple[float | None, ...]
    toxicity: tuple[float | None, ...]
    sequence_kl: tuple[float, ...]


@dataclass(frozen=True)
class Frontier:
    """The content of frontier.json: N answers of the reference to each prompt of ``split``, and after training some
    answers of the policy to the same prompts (empty before, and where nothing is trained)."""

    split: str
    samples: int
    reward: str
    judge: str
    reference: tuple[PromptAnswers, ...]
    policy: tuple[PromptAnswers, ...] = ()


@dataclass(frozen=True)
class Point:
    """The best of ``n``: ``kl`` in nats a sequence is an upper bound; the differences are to n = 1, None there."""

    n: int
    kl: float
    reward: Estimate
    toxicity: Estimate
    reward_difference: Difference | None
    toxicity_difference: Difference | None


@dataclass(frozen=True)
class PolicyPoint:
    """The trained policy on the frontier's prompts: ``kl`` in nats a sequence (k1). The differences are to the
    frontier at this KL, which ``frontier_reward`` and ``frontier_toxicity`` hold; None beyond the largest n."""

    samples: int
    kl: Estimate
    reward: Estimate
    toxicity: Estimate
    frontier_reward: float | None
    frontier_toxicity: float | None
    reward_difference: Difference | None
    toxicity_difference: Difference | None


@dataclass(frozen=True)
class BestOfN:
    """The frontier summed up. ``outcome`` is one of ``OUTCOMES``; ``left_out`` counts prompts with an answer that could
    not be scored; ``warning`` is the verdict again where it is one."""

    split: str
    samples: int
    prompts: int
    left_out: int
    reward: str
    judge: str
    points: tuple[Point, ...]
    policy: PolicyPoint | None
    outcome: str
    verdict: str
    warning: str | None
    policy_verdict: str | None


OUTCOMES = {
    "carries": "the largest n lowers judged toxicity, its interval excludes 0",
    "short": "a smaller n does, the largest does not",
    "weak": "no n does",
    "flat": "the reward hardly tells the answers to one prompt apart",
    "nothing to lower": "the reference is not toxic on these prompts",
    "too few": "too few prompts, or none scored, to tell",
}
"""What the judge says about the reward, by name."""


# --- the estimator ---------------------------------------------------------------------------------------------------


def analytic_kl(n: int) -> float:
    """log n - (n - 1)/n nats a sequence: KL of best-of-n to what it chooses from.

    Exact where no answer comes twice and no two score alike, an upper bound always. Sources: Stiennon et al. 2020
    (arXiv 2009.01325), appendix G.3; the bound: Beirami et al. 2024 (arXiv 2401.01879), theorem 1.
    """
    if n < 1:
        raise InputError(f"best of n = {n}: choose from at least one answer")
    return math.log(n) - (n - 1) / n


def order_weights(samples: int, n: int) -> Floats:
    """(N,) C(i-1, n-1) / C(N, n) for i = 1 ... N: the chance that the i-th lowest of N is the highest of n of them,
    every subset of n equally likely. Raises InputError where n is not within 1 ... N.
    """
    if not 1 <= n <= samples:
        raise InputError(f"best of n = {n}: there are {samples} answers a prompt; choose n from 1 to {samples}")
    return np.array([math.comb(i, n - 1) / math.comb(samples, n) for i in range(samples)])


def best_of(reward: ArrayLike, values: ArrayLike, n: int) -> Floats:
    """(P,) expected value of the answer with the highest reward among n, the exact mean over all subsets of n of the N.

    ``reward`` and ``values`` are (P, N). Unbiased: with U-statistics every subset counts once. Among equal rewards
    each answer is as likely to be taken, so their values are averaged. Raises InputError for scores that are not
    finite or shapes that differ.
    """
    scores, valued = np.asarray(reward, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if scores.ndim != 2 or scores.shape != valued.shape:
        raise InputError(
            f"best of n: rewards {scores.shape} and values {valued.shape}; give both as (prompts, answers)"
        )
    if not (np.isfinite(scores).all() and np.isfinite(valued).all()):
        raise InputError("best of n: a score is not finite; leave out prompts with unscored answers and count them")
    weights = order_weights(scores.shape[1], n)
    expected = np.empty(len(scores))
    for place, (row, value) in enumerate(zip(scores, valued, strict=True)):
        _, tier, size = np.unique(row, return_inverse=True, return_counts=True)
        share = np.bincount(np.sort(tier), weights) / size
        expected[place] = share[tier] @ value
    return expected


def sizes(samples: int) -> list[int]:
    """1, 2, 4, 8 ... up to ``samples``, which is itself the last."""
    return [*(2**k for k in range(samples.bit_length()) if 2**k < samples), samples]


# --- the summary -----------------------------------------------------------------------------------------------------


def summarise_best_of_n(frontier: Frontier, *, seed: int) -> BestOfN:
    """Estimates with intervals over prompts for every n, the policy's against them, and what they say in words."""
    whole = [one for one in frontier.reference if None not in (*one.reward, *one.toxicity)]
    points: list[Point] = []
    policy, outcome, verdict, policy_verdict = None, "too few", "", None
    if whole:
        reward, toxicity = (np.array([getattr(one, name) for one in whole]) for name in ("reward", "toxicity"))
        ids = [one.prompt_id for one in whole]
        curves = {n: (best_of(reward, reward, n), best_of(reward, toxicity, n)) for n in sizes(frontier.samples)}
        points = [_point(n, curves[n], curves[1], ids, seed) for n in curves]
        outcome, verdict = _verdict(points, float(reward.std()), len(whole), frontier.split)
        policy = _policy_point(frontier, {i: k for k, i in enumerate(ids)}, curves, seed)
        policy_verdict = None if policy is None else _policy_verdict(policy, points[-1])
    else:
        verdict = "No prompt had all its answers scored, so nothing can be said about the reward model."
    return BestOfN(
        split=frontier.split,
        samples=frontier.samples,
        prompts=len(whole),
        left_out=len(frontier.reference) - len(whole),
        reward=frontier.reward,
        judge=frontier.judge,
        points=tuple(points),
        policy=policy,
        outcome=outcome,
        verdict=verdict,
        warning=verdict if outcome in ("weak", "short", "flat") else None,
        policy_verdict=policy_verdict,
    )


def at_kl(curves: Sequence[Floats], kls: Sequence[float], kl: float) -> Floats | None:
    """(P,) the frontier's value of each prompt at ``kl``: linear in KL between neighbouring n; None beyond the last.

    A mixture of the two neighbours has the interpolated value and, KL being convex, no more than the interpolated KL,
    so the line between them can be reached.
    """
    if kl > kls[-1]:
        return None
    right = max(1, int(np.searchsorted(kls, kl)))
    share = (max(kl, 0.0) - kls[right - 1]) / (kls[right] - kls[right - 1])
    return (1 - share) * curves[right - 1] + share * curves[right]


def _point(n: int, curve: tuple[Floats, Floats], first: tuple[Floats, Floats], ids: list[str], seed: int) -> Point:
    reward, toxicity = (mean_interval(values, ids, seed=seed) for values in curve)
    changes = [None if n == 1 else paired_difference(a, b, ids, seed=seed) for a, b in zip(first, curve, strict=True)]
    return Point(n, analytic_kl(n), reward, toxicity, *changes)


def _policy_point(
    frontier: Frontier, places: dict[str, int], curves: dict[int, tuple[Floats, Floats]], seed: int
) -> PolicyPoint | None:
    """The policy's answers to the frontier's scored prompts, answers of a prompt averaged."""
    known = [one for one in frontier.policy if one.prompt_id in places and None not in (*one.reward, *one.toxicity)]
    if not known:
        return None
    ids = [one.prompt_id for one in known]
    reward, toxicity, kl = (
        np.array([np.mean(getattr(one, name)) for one in known]) for name in ("reward", "toxicity", "sequence_kl")
    )
    kls = [analytic_kl(n) for n in curves]
    rows = [places[i] for i in ids]
    reached = [at_kl([curves[n][side][rows] for n in curves], kls, float(kl.mean())) for side in (0, 1)]
    changes = [
        None if at is None else paired_difference(at, ours, ids, seed=seed)
        for at, ours in zip(reached, (reward, toxicity), strict=True)
    ]
    means = [None if at is None else float(at.mean()) for at in reached]
    return PolicyPoint(
        samples=len(known[0].texts),
        kl=mean_interval(kl, ids, seed=seed),
        reward=mean_interval(reward, ids, seed=seed),
        toxicity=mean_interval(toxicity, ids, seed=seed),
        frontier_reward=means[0],
        frontier_toxicity=means[1],
        reward_difference=changes[0],
        toxicity_difference=changes[1],
    )


# --- in words --------------------------------------------------------------------------------------------------------


def _verdict(points: Sequence[Point], spread: float, prompts: int, split: str) -> tuple[str, str]:
    first, last = points[0], points[-1]
    gain = 0.0 if last.reward_difference is None else last.reward_difference.mean
    change = last.toxicity_difference
    where = plural(prompts, f"{split} prompt")
    if change is None or change.ci95 is None:
        return "too few", f"Too few prompts to tell whether the reward model carries: {where}; raise {_more(split)}."
    if gain <= MIN_GAIN * spread:
        return "flat", (
            f"The reward model is the weak link: it hardly tells the answers to one prompt apart (the best of {last.n} "
            f"scores only {plain(gain, 3)} more than one answer; all answers together spread by {plain(spread, 3)}). "
            "Rank answers that differ more, train it longer, or choose another classifier."
        )
    evidence = f"{_from_to(first, last)} ({difference_words(change, _digits(first, last))}, {where})"
    if change.ci95[1] < 0:
        return (
            "carries",
            f"The reward model carries: the best of {last.n} by its score lowers judged toxicity {evidence}.",
        )
    if first.toxicity.value < SATURATED[0]:
        return "nothing to lower", (
            f"Judged toxicity of the reference is {decimal(first.toxicity.value, 3)} on {where}: there is hardly "
            "anything to lower, so the judge cannot tell whether the reward model carries. Choose prompts or a model "
            "that show the problem."
        )
    if prompts < MIN_PROMPTS:
        return "too few", (
            f"Too few prompts to tell whether the reward model carries: judged toxicity goes {evidence}. Use "
            f"{MIN_PROMPTS} or more: raise {_more(split)}."
        )
    carried = [
        point
        for point in points
        if (d := point.toxicity_difference) is not None and d.ci95 is not None and d.ci95[1] < 0
    ]
    if carried and change.ci95[0] <= 0:
        far = carried[-1]
        assert far.toxicity_difference is not None
        return "short", (
            f"The reward model carries only a short way: the best of {far.n} by its score lowers judged toxicity "
            f"{_from_to(first, far)} ({difference_words(far.toxicity_difference, _digits(first, far))}), but for the "
            f"best of {last.n} no gain is shown ({difference_words(change, _digits(first, last))}, {where}). Stay "
            f"below {plain(far.kl)} nats of KL (raise ppo.kl_coef), or collect more rankings."
        )
    how = "raises judged toxicity" if change.ci95[0] > 0 else "does not measurably lower judged toxicity:"
    return "weak", (
        f"The reward model is the weak link: choosing the best of {last.n} by its score {how} {evidence}, so training "
        "on it cannot be expected to lower it either. Collect more rankings, train the reward model longer, and check "
        "that the judge measures what was ranked."
    )


def _policy_verdict(policy: PolicyPoint, last: Point) -> str:
    reach = f"The trained policy is {plain(policy.kl.value)} nats from the reference on these prompts"
    reward, toxicity = policy.reward_difference, policy.toxicity_difference
    if reward is None or toxicity is None:
        return f"{reach}, beyond the {plain(last.kl)} nats of the best of {last.n}, so the two cannot be compared."
    digits = digits_for(policy.toxicity.value, policy.frontier_toxicity)
    lines = (
        f"{reach}. Best-of-n at that KL scores {plain(policy.frontier_reward)} and is judged "
        f"{decimal(policy.frontier_toxicity, digits)}, the policy {plain(policy.reward.value)} "
        f"({plain(reward.mean, sign=True)}, 95 % interval {interval(reward.ci95, sign=True, words=plain)}) and "
        f"{decimal(policy.toxicity.value, digits)} ({difference_words(toxicity, digits)})."
    )
    if reward.ci95 is not None and reward.ci95[1] < 0:
        return (
            f"{lines} It gets less reward than best-of-n for the same KL: hardly any policy gets all of it, but more "
            "steps, larger rollouts or another learning rate may get more."
        )
    if reward.excludes_zero:
        return f"{lines} It gets more reward than best-of-n for the same KL."
    return f"{lines} It gets about as much reward as best-of-n for the same KL."


def _more(split: str) -> str:
    keys = {"validation": "best_of_n.prompts or prompts.validation_fraction"}
    return keys.get(split, f"evaluation.prompts or prompts.{split}_fraction")


def _from_to(first: Point, other: Point) -> str:
    digits = _digits(first, other)
    return f"from {decimal(first.toxicity.value, digits)} to {decimal(other.toxicity.value, digits)}"


def _digits(first: Point, other: Point) -> int:
    return min(3, digits_for(first.toxicity.value, other.toxicity.value))


# --- frontier.json ---------------------------------------------------------------------------------------------------


def write_frontier(path: Path, frontier: Frontier) -> None:
    """Write frontier.json, all or nothing. Raises InputError as ``check_frontier`` does."""
    check_frontier(frontier, str(path))
    write_text(path, json.dumps(to_json(frontier), ensure_ascii=False, allow_nan=False, indent=1) + "\n")


def read_frontier(path: Path) -> Frontier:
    """A frontier.json, checked; InputError names the file and what is wrong."""
    remedy = "align again, or delete it to report without it"
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: damaged ({type(error).__name__}); {remedy}") from None
    frontier = from_json(Frontier, value, str(path))
    check_frontier(frontier, str(path))
    return frontier


def check_frontier(frontier: Frontier, where: str) -> None:
    """Raise InputError for no prompts, a prompt twice, columns of unequal length or probabilities outside 0 to 1."""
    if not frontier.reference:
        raise InputError(f"{where}: holds no prompts; measure at least one")
    for side, count in ((frontier.reference, frontier.samples), (frontier.policy, None)):
        seen: set[str] = set()
        for one in side:
            name = f"{where}: prompt {one.prompt_id!r}"
            if one.prompt_id in seen:
                raise InputError(f"{name} appears twice; give each prompt once")
            seen.add(one.prompt_id)
            counts = {len(column) for column in (one.texts, one.reward, one.toxicity, one.sequence_kl)}
            if len(counts) > 1 or (count is not None and counts != {count}) or 0 in counts:
                expected = "one value an answer" if count is None else f"{count} of each, as samples says"
                raise InputError(f"{name} has {sorted(counts)} texts, rewards, toxicities and KLs; give {expected}")
            if any(value is not None and not 0 <= value <= 1 for value in one.toxicity):
                raise InputError(f"{name} has a toxicity outside 0 to 1; give the probability of the label")
