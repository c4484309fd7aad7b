"""`humanward reward evaluate`: any reward on pairs that people judged, its baselines, calibration, probes, and whether
more labelling is worth it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from humanward.errors import InputError, writing
from humanward.evaluation.compare import plain_values
from humanward.evaluation.reward_accuracy import length_outcomes
from humanward.evaluation.reward_curve import CurvePoint, learning_curve
from humanward.evaluation.reward_lexicon import RUDE
from humanward.evaluation.reward_measures import measure_set, score_pairs
from humanward.evaluation.reward_page import render_reward_evaluation
from humanward.evaluation.reward_pairs import PairSet, limited, of_run, read_pair_set
from humanward.evaluation.reward_probes import probe_edits
from humanward.evaluation.reward_words import findings, verdict, warnings
from humanward.evaluation.statistics import outcomes
from humanward.feedback.formats import import_files
from humanward.preferences import PromptPairs, derive_preferences
from humanward.progress import Reporter, Tracker
from humanward.prompts import content_key, opening_key
from humanward.records import Preference, Prompt, content_id, read_json_lines, read_jsonl
from humanward.reward.model import RewardEnsemble, RewardModel
from humanward.reward.rules import read_words, word_pattern
from humanward.reward.sources import RewardSource, Scored, in_detail
from humanward.reward.training import train_reward_model
from humanward.run_dir import open_run, write_text
from humanward.stages.context import REWARD_SEED, Run
from humanward.stages.report import versions
from humanward.stages.reward import own_base, read_pairs, training_groups
from humanward.stages.score import source_by_name
from humanward.stages.scoring import reward_source

CONTENT, PAGE = "reward_evaluation.json", "reward_evaluation.html"
SCORED_AT_ONCE = 64
PROBED = 100
"""Answers that the probes edit, at most."""
CURVE_ROLE = "reward-curve"

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class RewardPlan:
    """What was asked for: exactly one of ``source`` and ``run``, sets of pairs (FILE or NAME=FILE), options."""

    source: str | None
    run: Path | None
    pairs: tuple[str, ...]
    label: str | None = None
    probability: bool = False
    lexicon: Path | None = None
    shares: tuple[float, ...] = ()
    curve_seeds: int = 1
    probes: bool = True
    limit: int | None = None
    seed: int = 0


class _Detail:
    """(prompts, texts) -> scores and their parts as arrays, in batches that are told to a tracker."""

    def __init__(self, source: RewardSource) -> None:
        self.source = source
        self.tracker: Tracker | None = None

    def __call__(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> tuple[Floats, Mapping[str, Floats]]:
        order = sorted(range(len(texts)), key=lambda i: len(prompts[i].text) + len(texts[i]))
        scores = np.empty(len(texts))
        parts: dict[str, Floats] = {}
        for start in range(0, len(order), SCORED_AT_ONCE):
            batch = order[start : start + SCORED_AT_ONCE]
            found: Scored = in_detail(self.source, [prompts[i] for i in batch], [texts[i] for i in batch])
            scores[batch] = found.scores.double().numpy()
            for name, values in found.parts.items():
                parts.setdefault(name, np.full(len(texts), np.nan))[batch] = values.double().numpy()
            if self.tracker is not None:
                self.tracker.at(min(start + SCORED_AT_ONCE, len(texts)))
        return scores, parts

    def scores(self, prompts: Sequence[Prompt], texts: Sequence[str]) -> Floats:
        """(N,) scores alone."""
        return self(prompts, texts)[0]


def run_reward_evaluation(plan: RewardPlan, out: Path, *, reporter: Reporter, command: str) -> dict[str, Any]:
    """Measure, write reward_evaluation.json and .html into ``out``, and return the content of the former."""
    run = None if plan.run is None else Run(open_run(plan.run, None), reporter)
    if plan.shares and run is None:
        raise InputError("--learning-curve: trains on a run's own pairs; give --run instead of --source")
    train, sets = _sets(plan, run)
    source, described = _source(plan, run, reporter)
    sets = [limited(one, plan.limit) for one in sets]
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    words, where = (RUDE, "built in") if plan.lexicon is None else (tuple(read_words(plan.lexicon)), str(plan.lexicon))
    pattern = word_pattern(words, ignore_case=True)
    strict = [p for p in train if not p.tie]
    shorter = bool(length_outcomes(strict).mean() >= 0.5) if strict else None
    detail = _Detail(source)
    measured = []
    for one in sets:
        with reporter.track(f"scoring {one.name}", 2 * len(one.pairs)) as tracker:
            detail.tracker = tracker
            scores = score_pairs(one.pairs, detail)
        own = one.kind == "run"
        measured.append(
            measure_set(
                one,
                scores,
                seed=plan.seed,
                shorter=shorter,
                lexicon=lambda text: sum(1 for _ in pattern.finditer(text)),
                # The run's own pairs fitted its temperature, so they cannot judge it.
                temperature=None if own else getattr(source, "temperature", None),
            )
        )
    detail.tracker = None
    content: dict[str, Any] = {
        "title": f"Reward evaluation: {described['name']}",
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "reward": described,
        "seed": plan.seed,
        "sets": measured,
        "learning_curve": _curve(plan, run, sets[0], train, reporter) if run is not None and plan.shares else None,
        "probes": _probe(plan, sets[0], detail, reporter) if plan.probes else None,
        "lexicon": {"words": len(words), "source": where},
        "independence": _seen(run, sets),
        "versions": versions(),
        "reproduce": command,
    }
    content = plain_values(content)
    content |= {"verdict": verdict(content), "findings": findings(content), "warnings": warnings(content)}
    write_text(out / CONTENT, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    write_text(out / PAGE, render_reward_evaluation(content))
    return content


# --- what is measured ------------------------------------------------------------------------------------------------


def _source(plan: RewardPlan, run: Run | None, reporter: Reporter) -> tuple[RewardSource, dict[str, Any]]:
    """What scores, and what the page says of it."""
    if run is not None:
        source = reward_source(run)
        facts: dict[str, Any] = {"name": f"{run.folder.path.name}: {source.name}", "source": str(run.folder.path)}
    else:
        source = source_by_name(str(plan.source), plan.label, plan.probability, reporter)
        facts = {"name": str(plan.source), "source": str(plan.source)}
    if isinstance(source, RewardModel):
        model, parameter = source.tie_model
        facts |= {"criteria": list(source.criteria), "ties": {"model": model, "parameter": parameter}}
    if isinstance(source, RewardEnsemble):
        facts["members"] = len(source.members)
    return source, {**facts, "temperature": getattr(source, "temperature", None)}


def _sets(plan: RewardPlan, run: Run | None) -> tuple[list[Preference], list[PairSet]]:
    """The pairs that the reward was trained on, where they are known, and the sets to measure on."""
    if (plan.source is None) == (plan.run is None):
        raise InputError("--source, --run: give exactly one of the two: what scores, or the run whose reward does")
    train: list[Preference] = []
    sets: list[PairSet] = []
    if run is not None and run.folder.file("preferences.jsonl").exists():
        train, held_out = read_pairs(run)
        sets.append(of_run(run.folder.file("preferences.jsonl"), held_out))
    sets += map(_read, plan.pairs)
    if not sets:
        raise InputError("reward evaluate: has no pairs to measure on; give --pairs FILE")
    names = [one.name for one in sets]
    if repeated := [name for name in names if names.count(name) > 1]:
        raise InputError(f"--pairs: two sets are named {repeated[0]!r}; write --pairs NAME=FILE for one of them")
    return train, sets


def _read(given: str) -> PairSet:
    """``FILE`` or ``NAME=FILE``."""
    name, equals, path = given.partition("=")
    if not equals or Path(given).exists():
        name, path = "", given
    if equals and name and not re.fullmatch(r"[\w .+-]+", name):
        raise InputError(f"--pairs {given}: {name!r} is no name of letters, digits, spaces, '.', '+' and '-'")
    found = read_pair_set(Path(path).expanduser(), None, _feedback)
    return replace(found, name=name) if name else found


def _feedback(path: Path) -> Sequence[Preference]:
    """Preferences of a file of ours, or in a format of `humanward feedback import`."""
    if path.suffix == ".jsonl":
        _, first = next(read_json_lines(path), (0, None))
        if isinstance(first, dict) and {"chosen_id", "rejected_id", "prompt_id"} <= first.keys():
            return read_jsonl(path, Preference)
    try:
        found = import_files([path], "auto").feedback
    except InputError as error:
        raise InputError(
            f"{error}: --pairs needs two answers of which one was preferred (prompt, chosen, rejected), or a file of "
            "`humanward feedback import`"
        ) from None
    derived = derive_preferences(found.prompts, found.completions, found.rankings, locations=found.locations)
    return derived.preferences


def _seen(run: Run | None, sets: Sequence[PairSet]) -> list[str]:
    """Warnings for sets that hold prompts which the run's reward model was trained on."""
    file = None if run is None else run.folder.file("preferences.jsonl")
    if run is None or file is None or not file.exists():
        return []
    trained = {key for p in read_pairs(run)[0] for key in (content_key(p.prompt), opening_key(p.prompt))}
    found = []
    for one in sets:
        count = sum(bool({pair.cluster, opening_key(pair.prompt)} & trained) for pair in one.pairs)
        if count:
            found.append(
                f"{one.name}: {count} of {len(one.pairs)} pairs are on prompts that the reward model was trained on, so"
                " its accuracy there says little."
            )
    return found


# --- probes and learning curve ---------------------------------------------------------------------------------------


def _probe(plan: RewardPlan, one: PairSet, detail: _Detail, reporter: Reporter) -> dict[str, Any]:
    answers = {(pair.cluster, pair.chosen): pair for pair in one.pairs if pair.chosen.strip()}
    order = sorted(answers, key=lambda key: content_id("probed", *key))[:PROBED]
    chosen = [answers[key] for key in order]
    reporter.say(f"probes: {len(chosen)} answers of {one.name}, each edited in one way at a time")
    return probe_edits(
        [pair.prompt for pair in chosen],
        [pair.chosen for pair in chosen],
        [pair.cluster for pair in chosen],
        detail.scores,
        seed=plan.seed,
    )


def _curve(
    plan: RewardPlan, run: Run, one: PairSet, train: Sequence[Preference], reporter: Reporter
) -> dict[str, Any] | None:
    """Models trained on growing shares of the run's prompts, each share holding the one before."""
    config = run.config.reward
    if not config.trains:
        raise InputError(f"--learning-curve: {run.folder.path} trains no reward model (reward.source, reward.model)")
    groups = sorted(training_groups(run, train), key=lambda group: content_id("curve", group.prompt.id))
    pairs = [pair for pair in one.pairs if not pair.tie]
    prompts = [pair.prompt for pair in pairs]
    points = []
    for share in plan.shares:
        kept = groups[: max(2, round(share * len(groups)))]
        right = np.zeros(len(pairs))
        for number in range(plan.curve_seeds):
            if share == 1 and number == 0:
                model = run.reward_model()  # trained on all of them already
            else:
                model = _train(run, kept, number, f"learning curve, {share:.0%} of the prompts", reporter)
            above, below = (model.score(prompts, [getattr(p, side) for p in pairs]) for side in ("chosen", "rejected"))
            right += outcomes(above.double().numpy(), below.double().numpy()) / plan.curve_seeds
        strict = sum(not pair.tie for group in kept for pair in group.pairs)
        points.append(CurvePoint(share, len(kept), strict, right))
    found = learning_curve(points, [pair.cluster for pair in pairs], seed=plan.seed)
    return {**found, "seeds": plan.curve_seeds}


def _train(run: Run, groups: Sequence[PromptPairs], number: int, title: str, reporter: Reporter) -> RewardModel:
    """One reward model on a base of its own, so that the run's roles stay as they are."""
    config = run.config.reward
    steps = -(-len(groups) // config.batch_size) * config.epochs
    with reporter.track(title, steps) as tracker:
        return train_reward_model(
            own_base(run),
            groups,
            config,
            run.config.lora,
            seed=run.seed(REWARD_SEED) + 10 * number,
            role=CURVE_ROLE,
            on_step=lambda step: tracker.at(step.step, f"loss {step.loss:.3f}"),
            on_notice=reporter.warn,
        )


def read_shares(text: str) -> tuple[float, ...]:
    """``0.25,0.5,1`` as growing numbers of (0, 1], two or more; InputError otherwise."""
    try:
        shares = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--shares {text}: holds something else than numbers; write such as 0.25,0.5,1") from None
    if len(shares) < 2 or any(not 0 < share <= 1 for share in shares) or list(shares) != sorted(set(shares)):
        raise InputError(f"--shares {text}: must be two or more growing numbers above 0 and at most 1")
    return shares
