"""Blind comparison by people: what they are given, and who won by their rankings.

The files are humanward's own feedback format, which ``humanward feedback import`` and the labelling service read. No
line says which model wrote an answer; ``key.json`` beside them does, and is for nobody who ranks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from humanward.errors import InputError
from humanward.evaluation.protocols.sets import EvaluationSet
from humanward.records import Completion, Ranking, content_id, from_json, read_json_lines, to_json, write_jsonl
from humanward.run_dir import write_text

FILE, KEY = "comparisons.jsonl", "key.json"


def completion_id(model: str, set_name: str, item: str, sample: int, text: str) -> str:
    """An id that tells nothing of the model to whoever sees it."""
    return content_id("evaluated", model, set_name, item, str(sample), text)


def write_comparisons(
    folder: Path, one: EvaluationSet, texts: Mapping[str, Mapping[tuple[str, int], str | None]], samples: int
) -> int:
    """Write a project of the first answers of all models; returns how many prompts it asks about.

    Answers of one prompt stand in the order of their ids, which are hashes. Prompts whose answers are all the same ask
    nothing and are left out.
    """
    rows: list[dict[str, Any]] = []
    key: dict[str, str] = {}
    asked = 0
    for item in one.items:
        answers = {model: texts[model].get((item.id, 0)) for model in texts}
        if any(text is None for text in answers.values()) or len(set(answers.values())) == 1:
            continue
        asked += 1
        rows.append({"prompt": to_json(item.prompt)})
        found = {completion_id(m, one.name, item.id, 0, str(text)): (m, str(text)) for m, text in answers.items()}
        for identity in sorted(found):
            model, text = found[identity]
            key[identity] = model
            rows.append({"completion": to_json(Completion(identity, item.prompt.id, text, ""))})
    write_jsonl(folder / FILE, rows)
    facts = {"set": one.name, "samples": samples, "models": list(texts), "completions": key}
    write_text(folder / KEY, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    return asked


def read_rankings(path: Path) -> list[Ranking]:
    """The rankings of a ``rankings.jsonl``, a run directory that holds one, or an export in our own format."""
    file = path / "rankings.jsonl" if path.is_dir() else path
    found = []
    for number, value in read_json_lines(file):
        where = f"{file} line {number}"
        if isinstance(value, dict) and len(value) == 1 and isinstance(next(iter(value.values())), dict):
            if "ranking" not in value:
                continue
            value = value["ranking"]
        found.append(from_json(Ranking, value, where))
    if not found:
        raise InputError(f"{file}: holds no rankings; export them from where people ranked")
    return _last_of_each(found)


def people_outcomes(
    rankings: Sequence[Ranking], key: Mapping[str, str], first: str, second: str, prompts: Mapping[str, str]
) -> tuple[np.ndarray, list[str]]:
    """(outcomes for ``first``, clusters): one a ranking that holds answers of both; NaN where none was acceptable.

    ``prompts`` maps prompt ids to the clusters of their items.
    """
    outcomes, clusters = [], []
    for ranking in rankings:
        if ranking.prompt_id not in prompts:
            continue
        tier_of = {key[one]: place for place, tier in enumerate(ranking.tiers) for one in tier if one in key}
        if ranking.none_acceptable and not ranking.tiers:
            outcome = float("nan")
        elif first in tier_of and second in tier_of:
            outcome = (np.sign(tier_of[second] - tier_of[first]) + 1) / 2
        else:
            continue
        outcomes.append(float(outcome))
        clusters.append(prompts[ranking.prompt_id])
    return np.array(outcomes, dtype=np.float64), clusters


def _last_of_each(rankings: Sequence[Ranking]) -> list[Ranking]:
    """The last ranking of one person of the same answers under one criterion, as docs/files.md says it counts."""
    kept: dict[Any, Ranking] = {}
    for ranking in rankings:
        answers = frozenset(one for tier in ranking.tiers for one in tier) or frozenset(ranking.shown_order)
        own = (ranking.annotator, ranking.prompt_id, ranking.criterion, answers) if ranking.annotator else ranking.id
        kept[own] = ranking
    return [ranking for ranking in kept.values() if ranking.tiers or ranking.none_acceptable]
