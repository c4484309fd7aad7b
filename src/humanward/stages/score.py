"""Scores any text with a classifier or a trained reward model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from humanward.errors import InputError
from humanward.progress import Reporter
from humanward.prompts import make_prompt
from humanward.records import Prompt, read_json_lines, write_jsonl
from humanward.reward.sources import Classifier, RewardSource
from humanward.run_dir import open_run
from humanward.stages.context import Run


def score_file(
    source: str, input_: Path, output: Path, *, label: str | None, probability: bool, reporter: Reporter
) -> dict[str, Any]:
    """Write every input line with its ``score``; returns counts."""
    rows, prompts, responses = [], [], []
    for number, row in read_json_lines(input_):
        where = f"{input_} line {number}"
        if not isinstance(row, dict) or not isinstance(row.get("response"), str):
            raise InputError(
                f'{where}: has no text field \'response\'; write {{"prompt": ..., "response": ...}} a line'
            )
        rows.append(row)
        prompts.append(_prompt(row.get("prompt"), where))
        responses.append(row["response"])
    if not rows:
        raise InputError(f'{input_}: holds no lines; write {{"prompt": ..., "response": ...}} a line')
    scorer = _source(source, label, probability, reporter)
    scores = scorer.score(prompts, responses).tolist()
    write_jsonl(output, ({**row, "score": score} for row, score in zip(rows, scores, strict=True)))
    return {"scored": len(rows), "source": source, "mean": sum(scores) / len(scores)}


def _prompt(value: Any, where: str) -> Prompt:
    if value in (None, ""):
        return Prompt("", "")
    return make_prompt(value, f"{where}, field 'prompt'", source="score")


def _source(name: str, label: str | None, probability: bool, reporter: Reporter) -> RewardSource:
    if (Path(name) / "stages.json").exists():
        return Run(open_run(Path(name), None), reporter).reward_model()
    output = "probability" if probability else "logit"
    return Classifier(name, -1 if label is None else label, output=output)
