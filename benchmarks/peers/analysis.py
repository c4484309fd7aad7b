"""Reward at equal KL: interpolation, intervals, bounds. Pure: numpy and scipy alone.

Legend: K KL coefficients, S seeds, P prompts. ``rewards`` and ``kls`` of one implementation are (K, S, P): means over a
prompt's samples, of the anchored reward and of the sequence KL to the reference in nats.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
Point = tuple[float, float]
"""(sequence KL in nats, reward)."""

RESAMPLES = 4_000


class NoOverlap(ValueError):  # noqa: N818 - the name says what happened
    """The two implementations' KLs have no common range; other KL coefficients are needed."""


def at_kl(points: Sequence[Point], kl: float, *, extend: bool = False) -> float:
    """The reward at ``kl``: a straight line in sqrt(KL) between the two measured points around it.

    In sqrt(KL) reward is nearly straight at first (Gao et al. 2022, arXiv 2210.10760). ``points`` holds the reference,
    (0, its reward). A KL below 0, which an estimate can be, counts as 0. ValueError for a ``kl`` beyond the last point,
    unless ``extend``, which goes on along the last line.
    """
    ordered = sorted((math.sqrt(max(x, 0.0)), y) for x, y in points)
    distance = math.sqrt(max(kl, 0.0))
    if len(ordered) < 2:
        raise ValueError(f"interpolation needs 2 points, got {len(ordered)}")
    if distance < ordered[0][0]:
        raise ValueError(f"KL {kl:g} is below the first point, {ordered[0][0] ** 2:g}; give the reference's")
    if distance > ordered[-1][0] and not extend:
        raise ValueError(f"KL {kl:g} is beyond the last point, {ordered[-1][0] ** 2:g}")
    right = next((i for i in range(1, len(ordered)) if distance <= ordered[i][0]), len(ordered) - 1)
    (x0, y0), (x1, y1) = ordered[right - 1 : right + 1]
    if x0 == x1:
        return (y0 + y1) / 2
    return y0 + (y1 - y0) * (distance - x0) / (x1 - x0)


def common_kl(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The middle, in sqrt(KL), of the range that both measured without the reference. NoOverlap where there is none."""
    low, high = max(min(ours), min(theirs)), min(max(ours), max(theirs))
    if low > high:
        raise NoOverlap(
            f"ours reaches KL {min(ours):.2f} to {max(ours):.2f}, theirs {min(theirs):.2f} to {max(theirs):.2f}: no "
            "common range; choose other coefficients with --kl"
        )
    return ((math.sqrt(max(low, 0.0)) + math.sqrt(max(high, 0.0))) / 2) ** 2


@dataclass(frozen=True)
class Comparison:
    """Ours minus theirs at one KL, in standard deviations of the reference's reward.

    ``ci95``: bootstrap over seeds and prompts. ``welch95``: from the seeds' own differences alone. ``per_seed``: each
    implementation's reward at this KL by seed, in units of the reward.
    """

    kl: float
    ours: float
    theirs: float
    difference: float
    ci95: tuple[float, float]
    welch95: tuple[float, float]
    per_seed: dict[str, list[float]]


def compare(
    ours: tuple[Floats, Floats],
    theirs: tuple[Floats, Floats],
    reference: Floats,
    reference_std: float,
    *,
    kl: float | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare (rewards, kls) of two implementations at ``kl``, by default in the middle of their common range.

    Each resample draws seeds of either implementation (a seed brings its runs at all coefficients) and prompts (the
    same for both and for the reference, since all answered the same ones with the same random numbers), then
    interpolates anew.
    """
    for rewards, kls in (ours, theirs):
        if rewards.shape != kls.shape or rewards.ndim != 3 or rewards.shape[2] != len(reference):
            raise ValueError(f"rewards {rewards.shape} and KLs {kls.shape} of {len(reference)} prompts do not fit")
    if reference_std <= 0:
        raise ValueError(f"the reference's reward has standard deviation {reference_std}")
    if kl is None:
        kl = common_kl(*(list(kls.mean((1, 2))) for _, kls in (ours, theirs)))
    means = [at_kl(_points(side, reference), kl) for side in (ours, theirs)]
    generator = np.random.default_rng(seed)
    draws = np.empty(resamples)
    prompts = len(reference)
    for i in range(resamples):
        weights = np.bincount(generator.integers(prompts, size=prompts), minlength=prompts) / prompts
        values = []
        for rewards, kls in (ours, theirs):
            chosen = generator.integers(rewards.shape[1], size=rewards.shape[1])
            drawn = (rewards[:, chosen] @ weights)[..., None], (kls[:, chosen] @ weights)[..., None]
            values.append(at_kl(_points(drawn, np.array([weights @ reference])), kl, extend=True))
        draws[i] = (values[0] - values[1]) / reference_std
    low, high = np.quantile(draws, [0.025, 0.975])
    per_seed = {
        name: [
            at_kl(_points((rewards[:, [s]], kls[:, [s]]), reference), kl, extend=True) for s in range(rewards.shape[1])
        ]
        for name, (rewards, kls) in (("ours", ours), ("theirs", theirs))
    }
    return Comparison(
        kl=kl,
        ours=means[0],
        theirs=means[1],
        difference=(means[0] - means[1]) / reference_std,
        ci95=(float(low), float(high)),
        welch95=welch(per_seed["ours"], per_seed["theirs"], reference_std),
        per_seed=per_seed,
    )


def welch(ours: Sequence[float], theirs: Sequence[float], scale: float) -> tuple[float, float]:
    """95 % interval of mean(ours) - mean(theirs), over ``scale``, by Welch's t with its degrees of freedom.

    (nan, nan) for fewer than two values on a side.
    """
    if min(len(ours), len(theirs)) < 2:
        return (math.nan, math.nan)
    a, b = np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float)
    va, vb = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
    difference = float(a.mean() - b.mean())
    if va + vb == 0:
        return (difference / scale, difference / scale)
    freedom = (va + vb) ** 2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1))
    half = float(stats.t.ppf(0.975, freedom)) * math.sqrt(va + vb)
    return ((difference - half) / scale, (difference + half) / scale)


def _points(side: tuple[Floats, Floats], reference: Floats) -> list[Point]:
    """The reference and one point a coefficient, averaged over seeds and prompts."""
    rewards, kls = side
    found = [(float(k), float(r)) for k, r in zip(kls.mean((1, 2)), rewards.mean((1, 2)), strict=True)]
    return [(0.0, float(reference.mean())), *found]
