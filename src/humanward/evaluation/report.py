"""report.json and report.html of a run, from its rows and records. Field by field: docs/files.md."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from humanward.errors import writing
from humanward.evaluation.best_of_n import BestOfN, Frontier, summarise_best_of_n
from humanward.evaluation.numerals import decimal, interval, percent, plain, plural
from humanward.evaluation.page import render_page
from humanward.evaluation.rows import EvaluationRow
from humanward.evaluation.summary import MOVED, Measure, Summary, change_of, summarise, verdict
from humanward.evaluation.toxicity import PromptToxicity, ToxicityScores
from humanward.evaluation.visible import visible

STAGES = ("sample", "reward", "align", "evaluate", "total")
REGRESSIONS = 10
ALARM = ("step", "name", "seen", "causes", "remedy")


@dataclass(frozen=True)
class ReportInputs:
    """Everything a report is made of.

    ``metrics``: the objects of metrics.jsonl. ``reward_model``: None with a ready-made classifier, else ``accuracy``
    {value, ci95, n}, ``baselines`` {constant, length} of {value, ci95} and ``difference_to_length`` {mean, ci95}.
    ``kl``: ``at_start`` and ``budget``, nats a sequence. ``gold_source``: what ranked in people's place, if anything
    did; ``simulated_annotators`` says so on the first screen. ``seconds``: by stage; a stage that did not run is
    absent or None. ``created_at``: as it shall be printed; empty leaves it out. ``frontier``: what best-of-n reaches,
    where it was measured. ``alarms``: of training, each with ``step``, ``name``, ``seen``, ``causes``, ``remedy``, and
    ``line``, as which it stands in ``warnings`` too. ``reward_sources``: of a combined reward each source's ``name``,
    ``kind``, ``weight``, ``shift`` and ``scale``. ``truncated``: by stage, how many texts each classifier cut.
    ``judge_reads``: ``response`` or ``prompt+response``. ``profile``: the content of profile.json, where there is one.
    """

    rows: Sequence[EvaluationRow]
    metrics: Sequence[Mapping[str, Any]]
    reward_model: Mapping[str, Any] | None
    kl: Mapping[str, float | None]
    judge: str
    reward_source: str
    gold_source: str | None
    simulated_annotators: bool
    warnings: Sequence[str]
    reproduce: str
    versions: Mapping[str, str]
    seconds: Mapping[str, float | None]
    config_toml: str
    title: str
    seed: int
    created_at: str = ""
    algorithm: str = "ppo"
    frontier: Frontier | None = None
    alarms: Sequence[Mapping[str, Any]] = ()
    reward_sources: Sequence[Mapping[str, Any]] = ()
    truncated: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    judge_reads: str = "response"
    profile: Mapping[str, Any] | None = None


def build_report(inputs: ReportInputs) -> dict[str, Any]:
    """The content of report.json: plain values, None for what was not measured, never NaN."""
    return _report(inputs, _summary(inputs), _best_of_n(inputs))


def write_report(inputs: ReportInputs, folder: Path) -> dict[str, Any]:
    """Write report.html and report.json into ``folder`` and return the latter's content.

    Both files are complete on disk under temporary names before either replaces an earlier one.
    """
    summary, best_of_n = _summary(inputs), _best_of_n(inputs)
    report = _report(inputs, summary, best_of_n)
    page = render_page(
        report,
        summary,
        inputs.rows,
        inputs.metrics,
        inputs.config_toml,
        best_of_n=best_of_n,
        frontier=inputs.frontier,
        alarms=inputs.alarms,
        profile=inputs.profile,
    )
    contents = {
        "report.html": page,
        "report.json": json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n",
    }
    temporary = {name: folder / f".{name}.{os.getpid()}.tmp" for name in contents}
    with writing(folder / "report.html"):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            for name, content in contents.items():
                with temporary[name].open("w", encoding="utf-8", newline="\n") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
            for name, path in temporary.items():
                path.replace(folder / name)
        finally:
            for path in temporary.values():
                path.unlink(missing_ok=True)
    return report


def closing_lines(report: Mapping[str, Any], path: str | Path | None = None) -> list[str]:
    """Ten lines for the terminal: the verdict, the numbers behind it, and where the report is (``path``)."""
    toxicity, fluency, kl = report["toxicity"], report["fluency"], report["kl"]
    before, after, change = toxicity["before"], toxicity["after"], toxicity["difference"]
    model = report["reward_model"]
    warnings = report["warnings"]
    reward = f"reward       {report['reward']['source']}"
    if model is not None:
        baseline = model["baselines"]["length"]
        reward += (
            f", held-out accuracy {decimal(model['accuracy']['value'])} "
            f"({interval(model['accuracy']['ci95'])}); length alone {decimal(baseline['value'])}"
        )
    if report["gold"]["simulated_annotators"]:
        reward += "; simulated annotators"
    total = report["seconds"]["total"]
    return [
        report["verdict"],
        f"toxicity     {decimal(before['mean'], 3)} -> {decimal(after['mean'], 3)}  (std {decimal(before['std'], 3)} "
        f"-> {decimal(after['std'], 3)}; change {percent(change['relative'], 0, sign=True)}; judge "
        f"{toxicity['judge']})",
        f"toxic (>=.5) {percent(before['ratio'])} -> {percent(after['ratio'])} of {plural(before['n'], 'response')}; "
        f"{toxicity['worse']} became more toxic by {decimal(MOVED)} or more",
        f"KL           {plain(kl['final'])} nats a sequence, {_kl_remark(kl)}",
        f"variety      distinct-2 {_arrow(fluency, 'distinct2')}, duplicates {_arrow(fluency, 'duplicates', percent)}",
        f"fluency      perplexity {_arrow(fluency, 'perplexity')}, length {_arrow(fluency, 'length')}, "
        f"empty {_arrow(fluency, 'empty', percent)}",
        reward,
        f"warnings     {len(warnings)}{': ' + warnings[0] if warnings else ''}",
        f"reproduce    {report['reproduce']}",
        f"report       {path if path is not None else 'report.html'}"
        + (f"  ({total:.0f} seconds in all)" if total is not None else ""),
    ]


def _kl_remark(kl: Mapping[str, Any]) -> str:
    if kl["analytic"]:
        return "an upper bound: log n - (n - 1)/n"
    budget = "no budget" if kl["budget"] is None else f"budget {plain(kl['budget'], 1)}"
    return f"{budget}, at start {plain(kl['at_start'], 3)}"


def _arrow(fluency: Mapping[str, Any], name: str, words: Any = decimal) -> str:
    return f"{words(fluency[f'{name}_before'])} -> {words(fluency[f'{name}_after'])}"


def _summary(inputs: ReportInputs) -> Summary:
    return summarise(
        inputs.rows,
        seed=inputs.seed,
        judge=inputs.judge,
        reward_source=inputs.reward_source,
        gold_source=inputs.gold_source,
        kl_budget=inputs.kl.get("budget"),
        kl_at_start=inputs.kl.get("at_start"),
    )


def _best_of_n(inputs: ReportInputs) -> BestOfN | None:
    return None if inputs.frontier is None else summarise_best_of_n(inputs.frontier, seed=inputs.seed)


def _report(inputs: ReportInputs, summary: Summary, best_of_n: BestOfN | None) -> dict[str, Any]:
    kl = summary.kl
    report: dict[str, Any] = {
        "title": inputs.title,
        "created_at": inputs.created_at,
        "seed": inputs.seed,
        "algorithm": inputs.algorithm,
        "verdict": verdict(summary),
        "outcome": _outcome(summary),
        "prompts": summary.prompts,
        "responses": summary.rows,
        "samples_per_prompt": list(summary.samples),
        "toxicity": {**_toxicity(inputs.judge, summary), "judge_reads": inputs.judge_reads},
        "reward_model": None if inputs.reward_model is None else _plain(inputs.reward_model),
        "kl": {
            "final": None if kl is None else kl.value,
            "ci95": None if kl is None or kl.ci95 is None else list(kl.ci95),
            "n": 0 if kl is None else kl.n,
            "budget": summary.kl_budget,
            "at_start": summary.kl_at_start,
            "analytic": inputs.algorithm == "best-of-n",
        },
        "fluency": _fluency(summary),
        "reward": {
            "source": inputs.reward_source,
            **_measure(summary.reward),
            "sources": [dict(source) for source in inputs.reward_sources],
            "parts": {part.name: _measure(part) for part in summary.reward_parts},
        },
        "gold": {
            "source": inputs.gold_source,
            "simulated_annotators": inputs.simulated_annotators,
            **_measure(summary.gold),
        },
        "best_of_n": None if best_of_n is None else asdict(best_of_n),
        "truncated": {stage: dict(counts) for stage, counts in inputs.truncated.items()},
        "alarms": [{key: alarm[key] for key in ALARM} for alarm in inputs.alarms],
        "profile": None if inputs.profile is None else dict(inputs.profile),
        "warnings": [
            *inputs.warnings,
            *summary.warnings,
            *_reward_model_warnings(inputs),
            *([best_of_n.warning] if best_of_n is not None and best_of_n.warning else []),
            *_gaps(inputs.metrics),
        ],
        "reproduce": inputs.reproduce,
        "versions": dict(inputs.versions),
        "seconds": {**dict(inputs.seconds), **{stage: inputs.seconds.get(stage) for stage in STAGES}},
        "worst_regressions": _regressions(inputs.rows),
    }
    return _plain(report)


def _outcome(summary: Summary) -> str:
    """``improved``, ``worse``, ``no evidence`` or ``not measured``: of judged toxicity alone."""
    if summary.toxicity is None or summary.toxicity.difference.ci95 is None:
        return "not measured"
    difference = summary.toxicity.difference
    if not (difference.excludes_zero and difference.p_value < 0.05):
        return "no evidence"
    return "improved" if difference.mean < 0 else "worse"


def _toxicity(judge: str, summary: Summary) -> dict[str, Any]:
    difference = asdict(summary.toxicity.difference) if summary.toxicity else dict.fromkeys(_DIFFERENCE)
    return {
        "judge": judge,
        "before": _side(summary.scores_before, summary.maxima_before, summary.toxicity, "before", summary.unscored[0]),
        "after": _side(summary.scores_after, summary.maxima_after, summary.toxicity, "after", summary.unscored[1]),
        "difference": {**difference, "relative": summary.relative},
        "above_half": _measure(summary.above_half),
        **{measure.name: _measure(measure) for measure in summary.extremes},
        "better": summary.movement.better,
        "worse": summary.movement.worse,
        "unchanged": summary.movement.unchanged,
    }


_DIFFERENCE = ("mean", "ci95", "p_value", "effect_size", "n", "clusters")


def _side(
    scores: ToxicityScores, maxima: PromptToxicity, measure: Measure | None, side: str, unscored: int
) -> dict[str, Any]:
    estimate = None if measure is None else getattr(measure, side)
    return {
        **asdict(scores),
        "unscored": unscored,
        "ci95": None if estimate is None else estimate.ci95,
        "expected_maximum": maxima.expected_maximum,
        "toxicity_probability": maxima.probability,
    }


def _measure(measure: Measure | None) -> dict[str, Any]:
    if measure is None:
        return {"before": None, "after": None, "difference": None}
    return {name: asdict(getattr(measure, name)) for name in ("before", "after", "difference")}


def _fluency(summary: Summary) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for order, sides in summary.distinct.items():
        values[f"distinct{order}_before"], values[f"distinct{order}_after"] = sides
    for name in ("perplexity", "length", "empty", "duplicates", "ended", "repetition"):
        values[f"{name}_before"] = getattr(summary.fluency_before, name)
        values[f"{name}_after"] = getattr(summary.fluency_after, name)
    values["length_difference"] = asdict(summary.length.difference)
    values["perplexity_change_ci95"] = summary.perplexity_change
    values["checks"] = [asdict(check) for check in summary.checks]
    return values


def _reward_model_warnings(inputs: ReportInputs) -> list[str]:
    if inputs.reward_model is None:
        return []
    difference = inputs.reward_model.get("difference_to_length")
    if difference is None or (difference["ci95"] is not None and difference["ci95"][0] > 0):
        return []
    return [
        "The reward model does not beat choosing by length: held-out accuracy differs by "
        f"{decimal(difference['mean'], 3, sign=True)} (95 % interval {interval(difference['ci95'], 3)}). "
        "Collect more rankings or train it longer."
    ]


def _gaps(metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    broken: dict[str, int] = {}
    for row in metrics:
        for name, value in row.items():
            if isinstance(value, float) and not math.isfinite(value):
                broken[name] = broken.get(name, 0) + 1
    return [f"{name} was not finite in {plural(count, 'step')}." for name, count in sorted(broken.items())]


def _regressions(rows: Sequence[EvaluationRow]) -> list[dict[str, Any]]:
    changes = [(change, row) for row in rows if (change := change_of(row)) is not None and change > 0]
    changes.sort(key=lambda pair: (-pair[0], pair[1].prompt_id, pair[1].sample))
    return [
        {
            "prompt_id": row.prompt_id,
            "sample": row.sample,
            "change": change,
            "toxicity_before": row.before.toxicity,
            "toxicity_after": row.after.toxicity,
            "prompt": row.prompt,
            "before": row.before.text,
            "after": row.after.text,
        }
        for change, row in changes[:REGRESSIONS]
    ]


def _plain(value: Any) -> Any:
    """Lists for tuples and dictionaries for mappings; text that UTF-8 can hold."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return visible(value) if isinstance(value, str) else value
