"""The curves of a run from metrics.jsonl: which are drawn, under which title, with which words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from humanward.evaluation.numerals import plain
from humanward.evaluation.pictures import Series, line_chart

Metrics = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Figure:
    """A picture with its title, caption and key: (style, words) for each colour in it."""

    title: str
    picture: Markup
    caption: str
    key: tuple[tuple[str, str], ...] = ()


def column(metrics: Metrics, name: str) -> tuple[list[float], list[float | None]]:
    """(steps, values) of one metric, rows without it left out; steps are ``STAGE/step``, else the row's place."""
    step_name = f"{name.split('/')[0]}/step"
    steps: list[float] = []
    values: list[float | None] = []
    for row in metrics:
        if name in row:
            steps.append(float(row.get(step_name, len(steps))))
            values.append(row[name])
    return steps, values


def training_curves(metrics: Metrics, kl_budget: float | None, *, bought: bool = True) -> list[Figure]:
    """Reward, KL with its budget, toxicity, what KL ``bought``, entropy, length, critic: what was logged."""
    limit = None if kl_budget is None else (kl_budget, f"budget {plain(kl_budget, 1)}")
    figures = [
        _chart(
            metrics,
            "Reward",
            {"ppo/score_mean": "score", "ppo/reward_mean": "after the KL penalty"},
            "Mean over the responses of a step: what was optimised, not what is judged.",
        ),
        _chart(
            metrics,
            "KL to the reference",
            {"ppo/sequence_kl": "sequence KL"},
            "Nats a sequence, mean over the responses of a step; it must start at 0.",
            limit=limit,
            include_zero=True,
        ),
        _chart(
            metrics,
            "Toxicity while training",
            {"ppo/toxicity": "toxicity"},
            "Mean over the responses of a step, which are to training prompts; only watched, nothing is chosen by it.",
            include_zero=True,
        ),
        *(frontier(metrics) if bought else ()),
        *monitor_curves(metrics),
        _chart(
            metrics, "KL coefficient", {"ppo/kl_coef": "coefficient"}, "Weight of the KL penalty.", include_zero=True
        ),
        _chart(
            metrics,
            "Entropy",
            {"ppo/entropy": "entropy"},
            "Nats a token; a fall towards 0 means that answers become all alike.",
            include_zero=True,
        ),
        _chart(
            metrics,
            "Response length",
            {"ppo/response_length": "tokens"},
            "Mean tokens a response.",
            include_zero=True,
        ),
        _chart(
            metrics,
            "Explained variance",
            {"ppo/explained_variance": "explained variance"},
            "Share of the returns’ variance that the critic predicts.",
        ),
        *_off_policy_curves(metrics),
    ]
    return [figure for figure in figures if figure is not None]


def monitor_curves(metrics: Metrics) -> list[Figure | None]:
    """What the looks at held-out prompts saw: rewards by step and by sqrt(KL), length, repetition and variety."""
    rewards = {"monitor/reward": "reward", "monitor/held_out": "held-out reward"}
    series = [
        Series(label, [x for x, _ in points], [y for _, y in points], kind, dots=True)
        for (name, label), kind in zip(rewards.items(), ("main", "second"), strict=True)
        if (points := _over_kl(metrics, name, "monitor/sequence_kl"))
    ]
    title = "Held-out prompts over KL"
    picture = line_chart(series, title=title, x_label="square root of sequence KL") if series else None
    key = tuple((one.kind, one.label) for one in series) if len(series) > 1 else ()
    words = "Where the reward rises and the held-out reward falls, the reward is being exploited."
    return [
        _chart(
            metrics,
            "Held-out prompts",
            rewards,
            "Gain over the first look, in standard deviations of its answers; the held-out reward is not learnt from.",
        ),
        Figure(title, picture, words, key) if picture else None,
        _chart(
            metrics,
            "Repetition",
            {"monitor/repetition": "within an answer", "monitor/overlap": "with other prompts’ answers"},
            "Share of repeated words within an answer; share of its word pairs that answers to other prompts hold too.",
            include_zero=True,
        ),
    ]


def _over_kl(metrics: Metrics, name: str, kl: str) -> list[tuple[float, float]]:
    """(sqrt(KL), value) of every row that holds both."""
    return [
        (math.sqrt(max(0.0, row[kl])), row[name]) for row in metrics if _finite(row.get(kl)) and _finite(row.get(name))
    ]


def _off_policy_curves(metrics: Metrics) -> list[Figure | None]:
    """Loss, accuracy, margin and likelihood, on the batches learnt from and on held-out prompts."""
    wanted = (
        ("Loss", "loss", "What was minimised, before each step."),
        ("Accuracy", "accuracy", "Share of the pairs whose preferred response has the higher implicit reward."),
        ("Margin", "margin", "Implicit reward of the preferred responses less that of the others."),
        (
            "Log-probability of the preferred responses",
            "chosen_logprob",
            "Nats a token. If it falls while the margin rises, probability moves to responses that nobody ranked.",
        ),
    )
    sides = {"offline/": "trained on", "offline/validation_": "held out"}
    return [
        _chart(metrics, title, {f"{side}{name}": words for side, words in sides.items()}, caption)
        for title, name, caption in wanted
    ]


def health_curves(metrics: Metrics) -> list[Figure]:
    """How the optimiser worked: losses, clipping, KL a token."""
    wanted = (
        ("Policy loss", "ppo/policy_loss", "Clipped surrogate loss."),
        ("Value loss", "ppo/value_loss", "Clipped squared error of the critic."),
        ("Clip fraction", "ppo/clip_fraction", "Share of tokens whose ratio left the clip range."),
        ("KL a token", "ppo/kl", "Nats a token, mean over the real tokens."),
        ("Gradient norm", "offline/gradient_norm", "Before it is clipped."),
        ("Learning rate", "offline/learning_rate", "With its warm-up."),
        ("Reference point", "offline/reference_point", "Nats a response: KTO’s estimate of KL, never below 0."),
    )
    figures = [_chart(metrics, title, {name: title}, words) for title, name, words in wanted]
    return [figure for figure in figures if figure is not None]


def reward_curves(metrics: Metrics) -> list[Figure]:
    """How the reward model was trained; of an ensemble the first member."""
    metrics = [row for row in metrics if row.get("reward/member", 1) == 1]
    figures = [
        _chart(metrics, "Reward model loss", {"reward/loss": "loss"}, "Pairwise logistic loss on the training pairs."),
        _chart(metrics, "Reward model accuracy", {"reward/accuracy": "accuracy"}, "Share of pairs ordered as ranked."),
    ]
    return [figure for figure in figures if figure is not None]


def frontier(metrics: Metrics) -> list[Figure]:
    """What each step away from the reference bought on its own training prompts: proxy score, and judged toxicity, over
    sqrt(KL).

    Source of the axis: Gao et al. 2022, arXiv 2210.10760, who find reward smooth in the square root of KL.
    """
    figures = []
    for name, title, words in (
        ("ppo/score_mean", "Reward bought with KL", "One dot a step: its score, which is what was optimised."),
        (
            "ppo/toxicity",
            "Toxicity bought with KL",
            "One dot a step: judged toxicity of its responses. If it rises while the reward rises, the reward is being "
            "exploited.",
        ),
    ):
        points = _over_kl(metrics, name, "ppo/sequence_kl")
        if len(points) > 1:
            series = Series(title, [x for x, _ in points], [y for _, y in points], dots=True)
            picture = line_chart([series], title=title, x_label="square root of sequence KL")
            figures.append(Figure(title, picture, words))
    return figures


def _chart(
    metrics: Metrics,
    title: str,
    names: Mapping[str, str],
    caption: str,
    *,
    limit: tuple[float, str] | None = None,
    include_zero: bool = False,
) -> Figure | None:
    kinds = ("main", "second")
    series = [
        Series(label, *column(metrics, name), kind)
        for (name, label), kind in zip(names.items(), kinds, strict=False)
        if any(row.get(name) is not None for row in metrics)
    ]
    picture = line_chart(series, title=title, x_label="step", limit=limit, include_zero=include_zero)
    if not picture:
        return None
    key = tuple((one.kind, one.label) for one in series) if len(series) > 1 else ()
    return Figure(title, picture, caption, key)


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
