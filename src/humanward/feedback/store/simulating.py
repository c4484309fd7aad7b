"""Simulated annotators in the store: for demonstrations and research, marked as simulated wherever they show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from humanward.errors import InputError
from humanward.feedback.files import Feedback
from humanward.feedback.simulated import simulate
from humanward.feedback.store import people
from humanward.feedback.store.audit import Actor
from humanward.feedback.store.models import Membership
from humanward.feedback.store.projects import criteria_of
from humanward.feedback.store.session import Store
from humanward.feedback.store.transfer import Added, add_feedback, load_feedback
from humanward.records import Prompt, Ranking, read_json_lines


@dataclass(frozen=True)
class Team:
    """How the simulated annotators are: see ``simulated.SimulatedAnnotator``."""

    annotators: int = 3
    overlap: int | None = None
    noise: float = 0.5
    tie_width: float = 0.0
    position_bias: float = 0.0
    acceptable: float | None = None
    seed: int = 0


def simulate_into(store: Store, actor: Actor, project_id: int, scores: Mapping[str, float], team: Team) -> Added:
    """Let a team rank all answers of a project, under every criterion by the same ``scores`` (by completion id).

    They become people of the project who can never sign in, and count towards no quota. Raises InputError for a
    completion without a score.
    """
    feedback = load_feedback(store, project_id)
    score_of: dict[tuple[str, str], float] = {}
    for completion in feedback.completions:
        if completion.id not in scores:
            raise InputError(f"completion {completion.id!r}: has no score; give one for every answer of the project")
        score_of[completion.prompt_id, completion.text] = scores[completion.id]

    def gold(prompts: Sequence[Prompt], texts: Sequence[str]) -> list[float]:
        return [score_of[prompt.id, text] for prompt, text in zip(prompts, texts, strict=True)]

    with store.read() as db:
        names = [criterion.name for criterion in criteria_of(db, project_id)]
    rankings: list[Ranking] = []
    for name in names:
        rankings += simulate(
            feedback.prompts,
            feedback.completions,
            gold,
            annotators=team.annotators,
            overlap=team.overlap,
            noise=team.noise,
            tie_width=team.tie_width,
            position_bias=team.position_bias,
            acceptable=team.acceptable,
            seed=team.seed,
            criterion=name,
        )
    for annotator in dict.fromkeys(ranking.annotator for ranking in rankings):
        _enrol(store, actor, project_id, annotator)
    now = store.now().isoformat(timespec="milliseconds")
    known = {ranking.id: ranking for ranking in feedback.rankings}
    dated = tuple(known.get(r.id) or replace(r, created_at=now) for r in rankings)
    return add_feedback(store, actor, project_id, Feedback((), (), dated), origin="simulated")


def read_scores(path: Path) -> dict[str, float]:
    """``{"completion_id": ..., "score": ...}`` a line; raises InputError naming the line."""
    found: dict[str, float] = {}
    for number, value in read_json_lines(path):
        where = f"{path} line {number}"
        if not isinstance(value, dict) or not isinstance(value.get("completion_id"), str):
            raise InputError(f"{where}: field 'completion_id' is missing or no text; write whose score it is")
        score = value.get("score")
        if isinstance(score, bool) or not isinstance(score, int | float):
            raise InputError(f"{where}, field 'score': {str(score)[:40]!r} is no number; correct it")
        found[value["completion_id"]] = float(score)
    return found


def _enrol(store: Store, actor: Actor, project_id: int, name: str) -> None:
    with store.read() as db:
        user = people.user_named(db, name)
    if user is None:
        user = people.add_user(store, name, simulated=True, actor=actor)
    if not user.simulated:
        raise InputError(f"{name}: is a person's name in this store; rename the person or the simulated annotator")
    with store.write() as db:
        if db.get(Membership, (user.id, project_id)) is None:
            db.add(Membership(user_id=user.id, project_id=project_id, role="annotator", created_at=store.now()))
