"""Stage 2: rankings of the completions, and the preference pairs that follow from them."""

from __future__ import annotations

import dataclasses
import getpass
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from humanward.errors import InputError
from humanward.feedback import files
from humanward.feedback.formats import import_files
from humanward.feedback.simulated import simulate
from humanward.feedback.terminal import rank_in_terminal
from humanward.preferences import PreferenceSet, check_straddling, derive_preferences
from humanward.prompts import opening_key
from humanward.records import (
    Completion,
    Preference,
    Prompt,
    Ranking,
    content_id,
    read_json_lines,
    read_jsonl,
    write_jsonl,
)
from humanward.stages.context import Run


def run_feedback(run: Run) -> None:
    """Write rankings.jsonl (unless pairs were given) and preferences.jsonl, split by prompt for the reward model."""
    started = time.perf_counter()
    source = run.config.feedback.source
    if source == "none":
        raise InputError(
            "feedback.source = 'none': there is nothing to rank; set it, or use reward.source = 'classifier'"
        )
    if source == "preferences":
        preferences = _given_preferences(run)
    else:
        prompts, completions, rankings, places = _rankings(run)
        if not rankings:
            raise InputError(
                f"{run.folder.path}: no prompt was ranked; rank some, or use feedback.source = 'simulated'"
            )
        derived = derive_preferences(_unsplit(prompts), completions, rankings, locations=places, count_ties=True)
        _tell(run, derived)
        preferences = list(derived.preferences)
        write_jsonl(run.folder.file(files.RANKINGS), rankings)
    preferences = _split_for_reward(run, preferences)
    check_straddling(preferences)
    write_jsonl(run.folder.file(files.PREFERENCES), preferences)
    simulated = any(p.simulated for p in preferences)
    run.folder.finish(
        "feedback",
        time.perf_counter() - started,
        source=source,
        simulated=simulated,
        gold=run.config.feedback.gold if source == "simulated" and simulated else None,
        pairs=sum(not p.tie for p in preferences),
        ties=sum(p.tie for p in preferences),
        prompts=len({p.prompt_id for p in preferences}),
        annotators=len({p.annotator for p in preferences}),
    )


Ranked = tuple[Sequence[Prompt], Sequence[Completion], Sequence[Ranking], Sequence[str]]


def _rankings(run: Run) -> Ranked:
    """(prompts, completions, rankings, where each ranking stands: empty when it is not from a file)."""
    source = run.config.feedback.source
    if source == "rankings":
        feedback = _imported(run)
        if _rankings_by_people(run):
            feedback = files.merge(files.read_feedback(run.folder.path), feedback)
        write_jsonl(run.folder.file(files.COMPLETIONS), feedback.completions)
        return feedback.prompts, feedback.completions, feedback.rankings, feedback.locations
    run.folder.facts("sample", f"run `humanward sample --run {run.folder.path}`")
    completions = read_jsonl(run.folder.file(files.COMPLETIONS), Completion)
    answered = {c.prompt_id for c in completions}
    prompts = [p for p in run.prompts("train") if p.id in answered]
    if source == "terminal":
        session = rank_in_terminal(
            prompts,
            completions,
            run.folder.file(files.RANKINGS),
            annotator=_user(),
            seed=run.config.seed,
            console=Console(stderr=run.reporter.quiet),
        )
        if session.ranked < 2 and session.remaining:
            raise InputError(
                f"{run.folder.path}: {session.ranked} prompts ranked, {session.remaining} left; rank at least two "
                "(the same command goes on where you stopped)"
            )
        return prompts, completions, [r for _, r in files.read_records(run.folder.file(files.RANKINGS), Ranking)], ()
    present = _rankings_by_people(run)
    if present:
        run.reporter.say(f"{len(present)} rankings by people are in the run directory; nobody is simulated")
        return prompts, completions, present, ()
    return prompts, completions, simulated_rankings(run, prompts, completions), ()


def _rankings_by_people(run: Run) -> list[Ranking]:
    """Rankings that `humanward feedback rank` or `import` put here: they are never overwritten by simulated ones."""
    file = run.folder.file(files.RANKINGS)
    return [r for _, r in files.read_records(file, Ranking) if not r.simulated] if file.exists() else []


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "me"


def simulated_rankings(run: Run, prompts: Sequence[Prompt], completions: Sequence[Completion]) -> tuple[Ranking, ...]:
    """Rankings by simulated annotators who follow the gold classifier with noise."""
    config, gold = run.config.feedback, run.gold()

    def score(asked: Sequence[Prompt], texts: Sequence[str]) -> np.ndarray:
        return gold.score(asked, texts).double().numpy()

    return simulate(
        prompts,
        completions,
        score,
        annotators=config.annotators,
        overlap=config.overlap,
        noise=config.noise,
        tie_width=config.tie_width,
        seed=run.config.seed,
    )


def _imported(run: Run) -> files.Feedback:
    """Rankings of a file in a known format, or of another run directory."""
    config = run.config.feedback
    path = Path(config.path or "").expanduser()
    if path.is_dir():
        return files.read_feedback(path)
    result = import_files([path], config.format)
    for note, count in result.notes.items():
        run.reporter.say(f"{path.name}: {count} {note}")
    return result.feedback


def _given_preferences(run: Run) -> list[Preference]:
    """Preference pairs from a file: our own form as it is, other formats by way of rankings."""
    config = run.config.feedback
    path = Path(config.path or "").expanduser()
    if path.is_file() and _holds_preferences(path):
        given = read_jsonl(path, Preference)
        return given if all(p.split for p in given) else [dataclasses.replace(p, split="") for p in given]
    feedback = _imported(run)
    derived = derive_preferences(
        _unsplit(feedback.prompts),
        feedback.completions,
        feedback.rankings,
        locations=feedback.locations,
        count_ties=True,
    )
    _tell(run, derived)
    return list(derived.preferences)


def _unsplit(prompts: Sequence[Prompt]) -> list[Prompt]:
    """The prompts without their splits, which are PPO's and not the reward model's."""
    return [dataclasses.replace(prompt, split="") for prompt in prompts]


def _holds_preferences(path: Path) -> bool:
    """Whether the first line is one of our own preference records."""
    if path.suffix != ".jsonl":
        return False
    _, first = next(read_json_lines(path), (0, None))
    return isinstance(first, dict) and {"chosen_id", "rejected_id", "prompt_id"} <= first.keys()


def _split_for_reward(run: Run, preferences: Sequence[Preference]) -> list[Preference]:
    """The preferences split by opening turn into what the reward model learns from and what measures it.

    Splits that a file gave stay. Otherwise ``reward.validation_fraction`` of the openings with a strict preference, at
    least two of them, are held out, chosen by a hash. Preferences on prompts of the evaluation are held out in any
    case: the policy must not learn from them by way of the reward model either.
    Raises InputError when that leaves nothing to train on, or less than two prompts to measure on.
    """
    strict = {opening_key(p.prompt) for p in preferences if not p.tie}
    held_out = {opening_key(prompt) for prompt in run.prompts("test")}
    if not all(p.split for p in preferences):
        free = sorted(strict - held_out, key=lambda opening: content_id("held out", opening))
        held_out |= set(free[: max(2, round(run.config.reward.validation_fraction * len(free)))])
        preferences = [dataclasses.replace(p, split="train") for p in preferences]
    split = [
        dataclasses.replace(p, split="validation") if p.split == "test" or opening_key(p.prompt) in held_out else p
        for p in preferences
    ]
    counts = {
        name: len({opening_key(p.prompt) for p in split if not p.tie and (p.split == "validation") == measured})
        for name, measured in (("to train on", False), ("held out", True))
    }
    if not counts["to train on"] or counts["held out"] < 2:
        raise InputError(
            f"{run.folder.path}: strict preferences on {counts['to train on']} prompts to train on and "
            f"{counts['held out']} held out; a reward model needs at least 1 and 2 (prompts of the evaluation are held "
            "out): rank more prompts"
        )
    return split


def _tell(run: Run, derived: PreferenceSet) -> None:
    if derived.identical:
        run.reporter.say(f"{derived.identical} pairs of identical answers dropped")
    if derived.without_pairs:
        run.reporter.say(f"{derived.without_pairs} rankings gave no pair")
