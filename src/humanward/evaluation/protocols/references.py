"""ROUGE against reference answers, by the library rouge-score (extra ``rouge``)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from humanward.errors import InputError

METRICS = ("rouge1", "rouge2", "rougeL")


def rouge(answer: str, references: Sequence[str]) -> dict[str, float]:
    """The F-measure of ROUGE-1, ROUGE-2 and ROUGE-L, each the best over the references (Lin 2004), words stemmed.

    Raises InputError for an item without references, or where the extra is not installed.
    """
    if not references:
        raise InputError("ROUGE: an item has no reference; give one for every prompt")
    scorer = _scorer()
    found = [scorer.score(reference, answer) for reference in references]
    return {name: max(float(one[name].fmeasure) for one in found) for name in METRICS}


@cache
def _scorer() -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ModuleNotFoundError:
        raise InputError(
            "ROUGE needs the package rouge-score, which is not installed; install the extra: "
            "pip install 'humanward[rouge]'"
        ) from None
    return RougeScorer(METRICS, use_stemmer=True)
