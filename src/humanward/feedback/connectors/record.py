"""What a run directory keeps of publications and answers: ``aws/NAME.json``, ``aws/answers.jsonl``, the rankings."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from humanward.errors import InputError
from humanward.feedback.connectors.answers import Answers, RawAnswer
from humanward.feedback.connectors.items import Finder
from humanward.feedback.files import PROMPTS, Feedback, merge, read_feedback, write_feedback
from humanward.labels import derive_labels
from humanward.preferences import derive_preferences
from humanward.prompts import parse_fractions, split_prompts
from humanward.records import from_json, read_json_lines, write_jsonl

FOLDER = "aws"
ANSWERS = "answers.jsonl"
SPLIT = "train=0.8,validation=0.1,test=0.1"


@dataclass(frozen=True)
class Publication:
    """What was published under a name: a labelling job, or the loops of a flow definition."""

    service: str
    name: str
    region: str
    criteria: tuple[str, ...]
    items: int
    label: str = ""
    flow_definition: str = ""
    loops: tuple[str, ...] = ()


def write_publication(run: Path, publication: Publication) -> None:
    """Keep it in the run directory, so that status and import need no more than the folder."""
    write_jsonl(run / FOLDER / f"{publication.name}.json", [publication])


def read_publications(run: Path, service: str, name: str | None = None) -> list[Publication]:
    """Those of a service, or the one of that name; raises InputError where there is none."""
    if not run.is_dir():
        raise InputError(f"{run}: no such run directory; check --run")
    found = []
    for path in sorted((run / FOLDER).glob("*.json")):
        for number, value in read_json_lines(path):
            publication = from_json(Publication, value, f"{path} line {number}")
            if publication.service == service and name in (None, publication.name):
                found.append(publication)
    if not found:
        what = "nothing" if name is None else f"no {name!r}"
        raise InputError(f"{run}: {what} was published to {service} from it; run: humanward feedback {service} publish")
    return found


def read_run(run: Path, *, may_be_new: bool = False) -> Feedback:
    """Prompts, completions, earlier rankings; raises InputError where they are missing, unless the run may be new."""
    if may_be_new and not (run / PROMPTS).exists():
        return Feedback()
    return read_feedback(run, rankings=False)


def merge_into_run(run: Path, old: Feedback, finder: Finder, answers: Answers) -> dict[str, int]:
    """Write raw answers, rankings and the preferences that follow; returns what is new and what there is now.

    The same answers again change no file's content. Raises InputError for an answer that another one contradicts.
    """
    raw = _merged_answers(run, answers)
    new = Feedback(
        tuple(finder.prompts.values()),
        tuple(finder.completions.values()),
        tuple(answers.rankings.values()),
        tuple(answers.places[key] for key in answers.rankings),
    )
    both = merge(old, new)
    both = dataclasses.replace(both, prompts=split_prompts(both.prompts, parse_fractions(SPLIT), 0))
    preferences = derive_preferences(both.prompts, both.completions, both.rankings, locations=both.locations)
    labels = derive_labels(both.prompts, both.completions, both.ratings)
    write_jsonl(run / FOLDER / ANSWERS, raw)
    write_feedback(run, both, preferences, labels)
    return {
        "answers": len(answers.raw),
        "new_rankings": len(both.rankings) - len(old.rankings),
        "rankings": len(both.rankings),
        "pairs": preferences.pairs,
        "ties": preferences.ties,
        "unlabelled": answers.unlabelled,
        "bad": len(answers.bad),
    }


def _merged_answers(run: Path, answers: Answers) -> Sequence[RawAnswer]:
    path = run / FOLDER / ANSWERS
    kept: dict[str, RawAnswer] = {}
    if path.exists():
        for number, value in read_json_lines(path):
            record = from_json(RawAnswer, value, f"{path} line {number}")
            kept[record.id] = record
    for key, record in answers.raw.items():
        known = kept.setdefault(key, record)
        if known.answer != record.answer:
            raise InputError(
                f"{record.source}: the answer of worker {record.worker!r} to task {record.task!r} differs from the one "
                f"imported before from {known.source}; remove the wrong one"
            )
    return list(kept.values())
