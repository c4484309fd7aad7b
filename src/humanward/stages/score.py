"""Scores any text with any reward source."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from humanward.config import ModelConfig
from humanward.errors import InputError
from humanward.models.base import SharedBase
from humanward.models.loading import load_model
from humanward.progress import Reporter
from humanward.prompts import make_prompt
from humanward.records import Prompt, read_json_lines, write_jsonl
from humanward.reward.function import FunctionReward
from humanward.reward.model import FACTS, load_reward_models, read_facts
from humanward.reward.sources import Classifier, RewardSource, in_detail
from humanward.reward_config import HttpSource
from humanward.run_dir import open_run
from humanward.stages.context import Run
from humanward.stages.scoring import reward_source

DISAGREEMENT = "disagreement"


def score_file(
    source: str | None,
    input_: Path,
    output: Path,
    *,
    run: Path | None = None,
    label: str | None = None,
    probability: bool = True,
    reporter: Reporter,
) -> dict[str, Any]:
    """Write every input line with its ``score``; returns counts.

    A reward of several sources adds ``parts``, what each of them says; an ensemble adds them and ``uncertainty``, how
    far its members are apart. Exactly one of ``source`` and ``run`` says what scores.
    """
    if (source is None) == (run is None):
        raise InputError("--source, --run: give exactly one of the two: what scores, or the run whose reward does")
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
    if run is not None:
        scorer = reward_source(Run(open_run(run, None), reporter))
    else:
        scorer = source_by_name(str(source), label, probability, reporter)
    scored = in_detail(scorer, prompts, responses)
    write_jsonl(output, [_scored_row(row, scored.scores, scored.parts, i) for i, row in enumerate(rows)])
    scores = scored.scores.tolist()
    facts: dict[str, Any] = {"scored": len(rows), "source": source or scorer.name, "mean": sum(scores) / len(scores)}
    if isinstance(scorer, Classifier):
        facts["truncated"] = scorer.truncated
    return facts


def _scored_row(row: dict[str, Any], scores: torch.Tensor, parts: dict[str, torch.Tensor], i: int) -> dict[str, Any]:
    scored = {**row, "score": float(scores[i])}
    if parts:
        scored["parts"] = {name: float(values[i]) for name, values in parts.items()}
    for name, values in parts.items():
        if name == DISAGREEMENT or name.endswith(f"-{DISAGREEMENT}"):
            scored["uncertainty"] = float(values[i])
    return scored


def _prompt(value: Any, where: str) -> Prompt:
    if value in (None, ""):
        return Prompt("", "")
    return make_prompt(value, f"{where}, field 'prompt'", source="score")


def source_by_name(name: str, label: str | None, probability: bool, reporter: Reporter) -> RewardSource:
    """A run directory's or a folder's reward model, an address, a function, or a classifier."""
    if re.match(r"https?://", name):
        from humanward.reward.remote import RemoteReward

        form = "scores" if label is None else "classification"
        return RemoteReward(HttpSource(kind="http", url=name, format=form, label=label))
    folder = Path(name).expanduser()
    if (folder / "stages.json").exists():
        return Run(open_run(folder, None), reporter).reward_models()
    if (folder / FACTS).exists():
        facts = read_facts(folder)
        # A base of other numbers than the one it was trained on would score differently.
        known: dict[str, Any] = {
            "policy": facts["base"],
            **{key: facts[key] for key in ("dtype", "quantization") if key in facts},
        }
        base = SharedBase(load_model(ModelConfig(**known)), system_prompt=facts.get("system_prompt"))
        return load_reward_models(base, [folder])
    if re.fullmatch(r"[\w.]+:\w+", name) and not folder.exists():
        return FunctionReward(name)
    output = "probability" if probability else "logit"
    return Classifier(name, -1 if label is None else label, output=output)
