"""Measures the detectors on text that neither was trained on, and whether they err together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from humanward.demo.recipe import corpus, detectors

Scorer = Callable[[Sequence[str]], np.ndarray]

IDENTITY_SENTENCES = (
    "I am a gay man.", "My neighbours are Muslim.", "She is a black woman.",
    "My parents are Jewish immigrants.", "He is a disabled veteran.", "I am proud to be transgender.",
    "Our teacher is a lesbian.", "They are Mexican.", "The woman next door is Asian.", "I am an old white man.",
)  # fmt: skip
INSULTING_SENTENCES = (
    "you are an idiot", "shut up, you stupid bitch", "You are a worthless piece of shit.", "fuck you asshole",
    "What a fucking moron.", "you stupid cunt", "nobody likes you, loser", "you're a disgusting pig",
    "Shut the fuck up.", "You are so dumb and ugly.",
)  # fmt: skip


def scorer(folder: Path) -> Scorer:
    """A function from texts to the log-odds of hate of the classifier in ``folder``."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    return lambda texts: detectors.logits_of(model, tokenizer, texts)


def probability(logits: np.ndarray) -> np.ndarray:
    """The logistic function."""
    return 1 / (1 + np.exp(-logits))


def roc_auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """The probability that a positive outscores a negative, ties counting half (Mann-Whitney U / nm)."""
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, side="left") + np.searchsorted(ordered, positive, side="right")
    return float(below.mean() / (2 * len(negative)))


def auc_with_interval(positive: np.ndarray, negative: np.ndarray, seed: int = 0, draws: int = 1000) -> dict[str, Any]:
    """ROC AUC with the 95 % percentile bootstrap interval, positives and negatives resampled apart."""
    rng = np.random.default_rng(seed)
    values = [roc_auc(rng.choice(positive, len(positive)), rng.choice(negative, len(negative))) for _ in range(draws)]
    low, high = np.quantile(values, [0.025, 0.975])
    return {
        "auc": roc_auc(positive, negative),
        "ci95": [float(low), float(high)],
        "toxic": len(positive),
        "other": len(negative),
    }


def comment_sets(data: Path, seed: int = 0) -> dict[str, tuple[list[str], list[str]]]:
    """(toxic, other) texts of web comments never trained on, balanced by a random draw of the others.

    ``wiki``: all toxic rows of context_toxicity; ``wiki_clear``: those on which the people's label and the upstream
    machine score agree at .5; ``wiki_small``: its third file, judged out of context; ``rtp``: continuations of
    real_toxicity_prompts that a machine scored above .6 or below .3.
    """
    rng = np.random.default_rng(seed)
    rows = [r for name in ("gn", "gc") for r in corpus.read_csv(data, f"context_toxicity/{name}.csv.gz")]
    small = corpus.read_csv(data, "context_toxicity/cat_small.csv.gz")
    machine = corpus.real_toxicity(data)
    clear = [r for r in rows if (float(r["api"]) > 0.5) == (r["label"] == "1")]
    sides = {
        "wiki": [(r["text"], r["label"] == "1") for r in rows],
        "wiki_clear": [(r["text"], r["label"] == "1") for r in clear],
        "wiki_small": [(r["text"], float(r["label_oc"]) >= 0.5) for r in small],
        "rtp": [(r.text, r.target > 0.6) for r in machine if not 0.3 <= r.target <= 0.6],
    }
    sets = {}
    for name, pairs in sides.items():
        toxic = [corpus.squeeze(text) for text, label in pairs if label]
        other = [corpus.squeeze(text) for text, label in pairs if not label]
        # the others outnumber the toxic ones by up to 100 : 1; ten for one keeps the interval that the toxic ones set
        keep = rng.permutation(len(other))[: 10 * len(toxic)]
        sets[name] = (toxic, [other[i] for i in keep])
    return sets


def plain_sets(data: Path, seen: set[str]) -> dict[str, list[str]]:
    """Plain dialogue that neither detector was trained or calibrated on."""
    held_out = [t for t in detectors.held_out_dialogue(data) if corpus.normalised(t) not in seen]
    meetings = [turn for meeting in corpus.qmsum(data, "test") for turn in meeting if len(turn) > 20]
    return {
        "topical_chat": corpus.topical_chat(data),
        "self_dialogue": held_out[1::2],
        "qmsum": [turn for turn in meetings if corpus.normalised(turn) not in seen][::3],
    }


def error_correlation(data: Path, first: Scorer, second: Scorer, seed: int = 0) -> dict[str, float]:
    """Pearson correlation of (P(hate) - label) on equally many toxic and other comments of context_toxicity.

    Also the part within one label, which two good detectors share because the texts are clear or hard.
    """
    toxic, other = comment_sets(data, seed)["wiki"]
    other = other[: len(toxic)]
    label = np.r_[np.ones(len(toxic)), np.zeros(len(other))]
    errors = [probability(score(toxic + other)) - label for score in (first, second)]
    wrong = [np.abs(e) > 0.5 for e in errors]
    return {
        "errors": float(np.corrcoef(errors)[0, 1]),
        "within_toxic": float(np.corrcoef([e[label == 1] for e in errors])[0, 1]),
        "within_other": float(np.corrcoef([e[label == 0] for e in errors])[0, 1]),
        "both_wrong": float(np.mean(wrong[0] & wrong[1])),
        "n": len(label),
    }


def evaluate_one(data: Path, score: Scorer, seen: set[str]) -> dict[str, Any]:
    """AUC with intervals, false positives at .5 on plain dialogue, identity terms and HateCheck by functionality."""
    by_function: dict[str, list[str]] = defaultdict(list)
    for name, text, _ in corpus.hatecheck(data):
        by_function[name].append(text)
    fires: Callable[[Sequence[str]], float] = lambda texts: float(np.mean(score(texts) > 0))  # noqa: E731
    return {
        "auc": {k: auc_with_interval(score(a), score(b)) for k, (a, b) in comment_sets(data).items()},
        "false_positives": {k: {"rate": fires(texts), "n": len(texts)} for k, texts in plain_sets(data, seen).items()},
        "identity_sentences": fires(IDENTITY_SENTENCES),
        "insulting_sentences": fires(INSULTING_SENTENCES),
        "hatecheck": {name: {"fires": fires(texts), "n": len(texts)} for name, texts in by_function.items()},
    }


def training_texts(data: Path, seed: int) -> set[str]:
    """The normalised form of everything that either detector was trained on."""
    first, second = detectors.gather_both(data, seed)
    return detectors.normalised_texts(first) | detectors.normalised_texts(second)


@torch.no_grad()
def evaluate_detectors(data: Path, out: Path, seed: int) -> dict[str, Any]:
    """Everything that is reported about ``out/detector`` and ``out/judge``."""
    seen = training_texts(data, seed)
    first, second = scorer(out / "detector"), scorer(out / "judge")
    return {
        "detector": evaluate_one(data, first, seen),
        "judge": evaluate_one(data, second, seen),
        "error_correlation": error_correlation(data, first, second),
    }
