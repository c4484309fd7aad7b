"""Stage 2: rankings of the completions and the preference pairs that follow from them, or ratings and labels."""

from __future__ import annotations

import dataclasses
import getpass
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from humanward.algorithm_config import OFF_POLICY
from humanward.errors import InputError
from humanward.feedback import files
from humanward.feedback.extra import need_collect
from humanward.feedback.formats import import_files
from humanward.feedback.quality.combining import annotator_weights, consensus_rankings
from humanward.feedback.simulated import simulate
from humanward.feedback.terminal import rank_in_terminal
from humanward.labels import derive_labels
from humanward.preferences import PreferenceSet, check_straddling, derive_preferences
from humanward.prompts import hold_out, opening_key
from humanward.records import (
    Completion,
    Preference,
    Prompt,
    Ranking,
    read_json_lines,
    read_jsonl,
    write_jsonl,
)
from humanward.stages.context import Run


def run_feedback(run: Run) -> None:
    """Write rankings.jsonl (unless pairs were given) and preferences.jsonl, split by prompt for what learns from them.

    With ratings: ratings.jsonl and labels.jsonl instead.
    """
    started, cut = time.perf_counter(), run.truncated()
    source = run.config.feedback.source
    if source == "none":
        raise InputError(
            "feedback.source = 'none': there is nothing to rank; set it, or use reward.source = 'classifier'"
        )
    if source == "ratings":
        _run_ratings(run, started)
        return
    if source == "preferences":
        derived = _given_preferences(run)
    else:
        prompts, completions, rankings, places = _rankings(run)
        if not rankings:
            raise InputError(
                f"{run.folder.path}: no prompt was ranked; rank some, or use feedback.source = 'simulated'"
            )
        derived = _combined(run, prompts, completions, rankings, places)
        write_jsonl(run.folder.file(files.RANKINGS), rankings)
    _tell(run, derived)
    preferences = _split_to_measure(run, derived.preferences)
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
        identical=derived.identical,
        prompts=len({p.prompt_id for p in preferences}),
        annotators=len({p.annotator for p in preferences}),
        truncated=run.truncated(cut),
    )


def _combined(
    run: Run,
    prompts: Sequence[Prompt],
    completions: Sequence[Completion],
    rankings: Sequence[Ranking],
    places: Sequence[str],
) -> PreferenceSet:
    """The pairs, of several annotators of a prompt as ``feedback.combine`` says."""
    combine, unsplit = run.config.feedback.combine, _unsplit(prompts)
    if combine == "all":
        return derive_preferences(unsplit, completions, rankings, locations=places, count_ties=True)
    if combine == "weighted":
        trust = annotator_weights(rankings)
        return derive_preferences(unsplit, completions, rankings, locations=places, count_ties=True, trust=trust)
    agreed, strength = consensus_rankings(rankings)
    return derive_preferences(unsplit, completions, agreed, count_ties=True, grades=strength)


def _run_ratings(run: Run, started: float) -> None:
    """Write ratings.jsonl and labels.jsonl, split like preferences."""
    folder, config = run.folder, run.config
    present = (folder.file(files.RATINGS)).exists()
    if config.feedback.path is None:
        if not present:
            raise InputError(
                f"{folder.path}: holds no ratings.jsonl, and feedback.path is not set; name a file of ratings, or run "
                f"`humanward feedback import --format kto FILE --run {folder.path}`"
            )
        rated = files.read_feedback(folder.path)
    else:
        rated = _imported(run)
        if present:
            rated = files.merge(files.read_feedback(folder.path), rated)
    if not rated.ratings:
        raise InputError(
            f"{config.feedback.path}: holds no ratings; give answers with a label (format kto) or answers to imitate "
            "(format demonstrations), or use feedback.source = 'rankings'"
        )
    derived = derive_labels(_unsplit(rated.prompts), rated.completions, rated.ratings)
    if derived.undecided:
        run.reporter.say(f"{derived.undecided} answers left out: as many ratings for them as against them")
    held_out = {opening_key(prompt) for prompt in run.prompts("test")}
    free = {opening_key(label.prompt) for label in derived.labels} - held_out
    held_out |= _held_out(free, config.offline.validation_fraction)
    labels = [
        dataclasses.replace(label, split="validation" if opening_key(label.prompt) in held_out else "train")
        for label in derived.labels
    ]
    if not any(label.split == "train" for label in labels):
        raise InputError(
            f"{folder.path}: labels on {len({label.prompt_id for label in labels})} prompts, all held out (prompts of "
            "the evaluation are in any case); rate more answers"
        )
    write_jsonl(folder.file(files.COMPLETIONS), rated.completions)
    write_jsonl(folder.file(files.RATINGS), rated.ratings)
    write_jsonl(folder.file(files.LABELS), labels)
    folder.finish(
        "feedback",
        time.perf_counter() - started,
        source=config.feedback.source,
        simulated=any(label.simulated for label in labels),
        gold=None,
        labels=len(labels),
        desirable=derived.desirable,
        prompts=len({label.prompt_id for label in labels}),
        annotators=len({rating.annotator for rating in rated.ratings}),
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
    if source == "collect":
        return _from_store(run)
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


def _from_store(run: Run) -> Ranked:
    """What people ranked in the labelling service; with a store of its own, about answers of other models too."""
    need_collect()
    from humanward.feedback.store.runs import collected

    config = run.config.feedback
    feedback = collected(run.folder.path, config.db, config.project)
    write_jsonl(run.folder.file(files.COMPLETIONS), feedback.completions)
    return feedback.prompts, feedback.completions, feedback.rankings, ()


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


def _given_preferences(run: Run) -> PreferenceSet:
    """Preference pairs from a file: our own form as it is, other formats by way of rankings."""
    config = run.config.feedback
    path = Path(config.path or "").expanduser()
    if path.is_file() and _holds_preferences(path):
        given = read_jsonl(path, Preference)
        kept = tuple(p for p in given if p.chosen != p.rejected)
        if not all(p.split for p in kept):
            kept = tuple(dataclasses.replace(p, split="") for p in kept)
        derived = PreferenceSet(kept, identical=len(given) - len(kept))
    else:
        feedback = _imported(run)
        derived = derive_preferences(
            _unsplit(feedback.prompts),
            feedback.completions,
            feedback.rankings,
            locations=feedback.locations,
            count_ties=True,
        )
    if not derived.preferences and derived.identical:
        raise InputError(f"{path}: all {derived.identical} pairs have two identical sides; give answers that differ")
    return derived


def _unsplit(prompts: Sequence[Prompt]) -> list[Prompt]:
    """The prompts without their splits, which are PPO's and not the reward model's."""
    return [dataclasses.replace(prompt, split="") for prompt in prompts]


def _holds_preferences(path: Path) -> bool:
    """Whether the first line is one of our own preference records."""
    if path.suffix != ".jsonl":
        return False
    _, first = next(read_json_lines(path), (0, None))
    return isinstance(first, dict) and {"chosen_id", "rejected_id", "prompt_id"} <= first.keys()


def _split_to_measure(run: Run, preferences: Sequence[Preference]) -> list[Preference]:
    """The preferences split by opening turn into what is learnt from and what measures it.

    Splits that a file gave stay. Otherwise ``reward.validation_fraction`` of the openings with a strict preference, at
    least two of them, are held out, chosen by a hash; for algorithms that learn from the pairs themselves
    ``offline.validation_fraction``. Preferences on prompts of the evaluation are held out in any case: the policy must
    not learn from them by way of the reward model either.
    Raises InputError when that leaves nothing to train on, or a reward model less than two prompts to measure on.
    """
    off_policy = run.config.algorithm in OFF_POLICY
    strict = {opening_key(p.prompt) for p in preferences if not p.tie}
    held_out = {opening_key(prompt) for prompt in run.prompts("test")}
    if not all(p.split for p in preferences):
        free = strict - held_out
        if off_policy:
            held_out |= _held_out(free, run.config.offline.validation_fraction)
        else:
            held_out |= hold_out(free, run.config.reward.validation_fraction, at_least=2)
        preferences = [dataclasses.replace(p, split="train") for p in preferences]
    split = [
        dataclasses.replace(p, split="validation") if p.split == "test" or opening_key(p.prompt) in held_out else p
        for p in preferences
    ]
    counts = {
        name: len({opening_key(p.prompt) for p in split if not p.tie and (p.split == "validation") == measured})
        for name, measured in (("to train on", False), ("held out", True))
    }
    learner, least = (run.config.algorithm, 0) if off_policy else ("a reward model", 2)
    if not counts["to train on"] or counts["held out"] < least:
        raise InputError(
            f"{run.folder.path}: strict preferences on {counts['to train on']} prompts to train on and "
            f"{counts['held out']} held out; {learner} needs at least 1 and {least} (prompts of the evaluation are "
            "held out): rank more prompts"
        )
    return split


def _held_out(openings: set[str], fraction: float) -> set[str]:
    """``fraction`` of the openings, at least one of several unless it is 0."""
    return hold_out(openings, fraction, at_least=int(fraction > 0 and len(openings) > 1))


def _tell(run: Run, derived: PreferenceSet) -> None:
    if derived.identical:
        # Of sampled answers a few are always alike; pairs that somebody wrote down are not expected to be.
        tell = run.reporter.warn if run.config.feedback.source == "preferences" else run.reporter.say
        tell(f"{derived.identical} pairs with two identical sides dropped")
    if derived.without_pairs:
        run.reporter.say(f"{derived.without_pairs} rankings gave no pair")
