"""Iterated alignment: rank answers of the present policy, train the reward on all rankings so far, align on from there.

Every round is a run directory of its own, ``rounds/N`` below the run's folder; a finished stage of a round is never run
again, so that an interrupted run goes on within the round and the stage in which it stopped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from humanward.algorithm_config import ON_POLICY
from humanward.config import RunConfig, parse_config
from humanward.errors import InputError
from humanward.evaluation.rounds import Scores, render_rounds, summarise_rounds
from humanward.evaluation.rows import read_rows
from humanward.models.sampling import sample
from humanward.preferences import check_straddling
from humanward.progress import Reporter
from humanward.prompts import opening_key
from humanward.records import Completion, Preference, Prompt, content_id, read_jsonl, write_jsonl
from humanward.reward.model import RewardEnsemble, RewardModel
from humanward.run_dir import RunDir, leaving_nothing_half_begun, open_run, write_text
from humanward.stages.context import SAMPLE_SEED, Run
from humanward.stages.loop import STAGES, check_sources
from humanward.stages.order import needed
from humanward.stages.report import run_report

ROUNDS, UNCERTAINTY, ROUND, SUMMARY, PAGE = "rounds", "uncertainty.json", "round.json", "rounds.json", "rounds.html"


def run_rounds(folder: RunDir, rounds: int, reporter: Reporter, *, reproduce: str | None = None) -> dict[str, Any]:
    """Run what has not finished of ``rounds`` rounds; returns the content of rounds.json, which every round renews."""
    refuse_without_rounds(folder.config)
    previous: RunDir | None = None
    content: dict[str, Any] = {}
    for number in range(1, rounds + 1):
        reporter.say(f"round {number} of {rounds}")
        present = _round_folder(folder, number, previous)
        try:
            with leaving_nothing_half_begun(present):
                _run_round(present, previous, reporter)
        except InputError:
            with contextlib.suppress(OSError):  # holds rounds that have begun
                present.path.parent.rmdir()
            raise
        content = write_summary(folder, number, reproduce=reproduce)
        previous = present
    return content


def refuse_without_rounds(config: RunConfig) -> None:
    """InputError for what cannot be repeated: other algorithms, rewards that are not trained, rankings of a file."""
    if config.algorithm not in ON_POLICY:
        raise InputError(
            f"--rounds: algorithm = {config.algorithm!r} has no reward to train again; use {', '.join(ON_POLICY)}"
        )
    if not config.reward.trains:
        raise InputError(
            f"--rounds: reward.source = {config.reward.source!r} trains nothing on rankings; set reward.source = "
            "'trained' and leave reward.model out"
        )
    if config.feedback.source not in ("simulated", "terminal", "collect"):
        raise InputError(
            f"--rounds: feedback.source = {config.feedback.source!r} ranks nothing anew; set simulated, terminal or "
            "collect"
        )
    if config.feedback.db is not None:
        raise InputError(
            f"--rounds: feedback.db = {config.feedback.db!r}: every round has answers of its own and keeps them in its "
            "own store; leave feedback.db out"
        )
    if config.model.train == "full" and config.rounds.reference == "previous":
        raise InputError(
            "--rounds: rounds.reference = 'previous' with model.train = 'full': a whole model cannot be the frozen "
            "adapter; set rounds.reference = 'original'"
        )


def _round_folder(folder: RunDir, number: int, previous: RunDir | None) -> RunDir:
    """The run directory of a round, made if absent; from the second on it starts where the one before ended."""
    path = folder.path / ROUNDS / str(number)
    path.parent.mkdir(parents=True, exist_ok=True)
    values = folder.config.model_dump(exclude_unset=True)
    values["rounds"] = {**values.get("rounds", {}), "number": number}
    if previous is not None:
        start = str(_policy(previous).resolve())
        if folder.config.rounds.reference == "previous":
            values["model"] = {**values.get("model", {}), "adapter": start}
        else:
            values["rounds"]["start"] = start
    return open_run(path, parse_config(values))


def _policy(folder: RunDir) -> Path:
    return folder.file("adapter" if folder.config.model.train == "adapter" else "model")


def _run_round(folder: RunDir, previous: RunDir | None, reporter: Reporter) -> None:
    """All stages of one round that have not finished, its report, and what its reward model learnt."""
    run = Run(folder, reporter)
    stages: dict[str, Callable[[Run], None]] = dict(STAGES)
    if previous is not None:
        before = previous
        stages |= {
            "prompts": lambda run: _same_prompts(run, before),
            "sample": lambda run: sample_informative(run, before),
            "reward": lambda run: _reward_so_far(run, before),
        }
    finished = folder.stages()
    check_sources(run)
    for name in needed(folder.config):
        if name in finished:
            reporter.say(f"{name}: finished before, not run again")
            continue
        finished = {}  # whatever came after an unfinished stage is out of date
        if name != "report":
            stages[name](run)
    if "report" not in folder.stages():
        run_report(run)
    if not folder.file(ROUND).exists() or not _is_of(folder):
        del run  # one base in memory at a time
        write_text(folder.file(ROUND), json.dumps(_learnt(folder, previous, reporter), indent=1) + "\n")


def _is_of(folder: RunDir) -> bool:
    """Whether round.json tells of the reward model that lies there."""
    known = json.loads(folder.file(ROUND).read_text(encoding="utf-8"))
    return bool(known.get("finished") == folder.stages()["reward"]["finished"])


# --- the stages of a later round -------------------------------------------------------------------------------------


def _same_prompts(run: Run, previous: RunDir) -> None:
    """The prompts of the round before, split as they were."""
    facts = previous.facts("prompts", f"run round {previous.path.name} first")
    write_jsonl(run.folder.file("prompts.jsonl"), read_jsonl(previous.file("prompts.jsonl"), Prompt))
    run.folder.finish("prompts", 0.0, **{k: v for k, v in facts.items() if k not in ("seconds", "finished")})


def sample_informative(run: Run, previous: RunDir) -> None:
    """Write completions.jsonl: answers of the policy so far to the prompts of a pool that are the most informative.

    uncertainty.json holds the number by which they were chosen, of every prompt of the pool; the labelling service asks
    for the highest first.
    """
    started, config = time.perf_counter(), run.config
    source = Run(previous, run.reporter)
    base = source.base()
    base.replace_role("policy", _policy(previous))
    pool = candidates(run, previous)
    k = config.feedback.completions_per_prompt
    asked = [prompt for prompt in pool for _ in range(k)]
    keys = [f"{prompt.id}\x1f{number}" for prompt in pool for number in range(k)]
    seed = run.seed(SAMPLE_SEED)
    with run.reporter.track("sample", len(asked)) as tracker, base.role("policy"):
        ids = [base.prompt_ids(prompt) for prompt in asked]
        responses = sample(base, ids, keys, config.sampling, seed=seed, progress=tracker.at)
    texts = [base.response_text(response.ids, config.sampling.stop) for response in responses]
    model = source.reward_models()
    uncertainty = dict(zip((p.id for p in pool), uncertainties(model, asked, texts, k).tolist(), strict=True))
    chosen = choose(pool, uncertainty, config.feedback.prompts, config.rounds.select)
    settings = {**config.sampling.model_dump(exclude={"batch_size"}), "seed": seed}
    completions = [
        Completion(
            id=content_id(prompt.id, f"{config.rounds.number}.{index % k}", text),
            prompt_id=prompt.id,
            text=text,
            model=f"{base.name}, after round {config.rounds.number - 1}",
            ended=response.ended,
            sampling={**settings, "number": index % k},
        )
        for index, (prompt, text, response) in enumerate(zip(asked, texts, responses, strict=True))
        if prompt.id in chosen
    ]
    write_text(run.folder.file(UNCERTAINTY), json.dumps(uncertainty, indent=1) + "\n")
    write_jsonl(run.folder.file("completions.jsonl"), completions)
    run.folder.finish(
        "sample",
        time.perf_counter() - started,
        completions=len(completions),
        prompts=len(chosen),
        pool=len(pool),
        uncertainty_of_pool=_mean(list(uncertainty.values())),
        uncertainty_of_chosen=_mean([uncertainty[prompt.id] for prompt in pool if prompt.id in chosen]),
    )


def candidates(run: Run, previous: RunDir) -> list[Prompt]:
    """Training prompts for the pool, in their order: those that no round has ranked yet, then the others."""
    earlier = [previous.path.parent / str(number) for number in range(1, run.config.rounds.number)]
    ranked = {one.prompt_id for folder in earlier for one in read_jsonl(folder / "completions.jsonl", Completion)}
    prompts = run.prompts("train")
    ordered = [p for p in prompts if p.id not in ranked] + [p for p in prompts if p.id in ranked]
    return ordered[: max(1, round(run.config.feedback.prompts * run.config.rounds.pool))]


@torch.no_grad()
def uncertainties(
    model: RewardModel | RewardEnsemble, asked: Sequence[Prompt], texts: Sequence[str], k: int
) -> torch.Tensor:
    """(prompts,) how unsure the reward is of the order of each prompt's ``k`` answers, which stand next to each other.

    With p = sigmoid(s_i - s_j) over a prompt's pairs: of an ensemble the mean standard deviation of p over the members;
    of one model the mean of 4 p (1 - p), which is 1 where it cannot tell and 0 where it is sure. Answers that are the
    same text teach nothing and count 0.
    """
    members = model.members if isinstance(model, RewardEnsemble) else [model]
    scores = torch.stack([member.score(asked, texts).double().reshape(-1, k) for member in members])
    first, second = torch.triu_indices(k, k, offset=1)
    p = torch.sigmoid(scores[:, :, first] - scores[:, :, second])
    unsure = p.std(0, correction=0) if len(members) > 1 else 4 * p[0] * (1 - p[0])
    groups = [texts[start : start + k] for start in range(0, len(texts), k)]
    differ = torch.tensor([[own[i] != own[j] for i, j in zip(first, second, strict=True)] for own in groups])
    return (unsure * differ).mean(1)


def choose(pool: Sequence[Prompt], uncertainty: dict[str, float], count: int, how: str) -> set[str]:
    """Ids of the ``count`` prompts to rank: the most uncertain, the first of equals; "random": the pool's first."""
    ordered = list(pool)
    if how == "uncertainty":
        ordered.sort(key=lambda prompt: -uncertainty[prompt.id])
    return {prompt.id for prompt in ordered[:count]}


def _reward_so_far(run: Run, previous: RunDir) -> None:
    merge_earlier(run, previous)
    STAGES["reward"](run)


def merge_earlier(run: Run, previous: RunDir) -> None:
    """Put the pairs of all earlier rounds before this round's own in preferences.jsonl; doing so again changes nothing.

    A prompt that an earlier round held out, or trained on, stays so.
    """
    file = run.folder.file("preferences.jsonl")
    earlier = read_jsonl(previous.file("preferences.jsonl"), Preference)
    known = {_identity(one) for one in earlier}
    split = {opening_key(one.prompt): one.split for one in earlier}
    own = [
        dataclasses.replace(one, split=split.get(opening_key(one.prompt), one.split))
        for one in read_jsonl(file, Preference)
        if _identity(one) not in known
    ]
    merged = [*earlier, *own]
    check_straddling(merged)
    write_jsonl(file, merged)


def _identity(one: Preference) -> tuple[str, ...]:
    return one.prompt_id, one.chosen_id, one.rejected_id, one.criterion, one.annotator, one.ranking_id or ""


# --- what a round bought ---------------------------------------------------------------------------------------------


def _learnt(folder: RunDir, previous: RunDir | None, reporter: Reporter) -> dict[str, Any]:
    """round.json: the held-out pairs so far, scored by the reward models of this round and of the one before."""
    pairs = [
        p for p in read_jsonl(folder.file("preferences.jsonl"), Preference) if p.split == "validation" and not p.tie
    ]
    sides: dict[str, Scores] = {}
    for name, place in (("before", previous), ("after", folder)):
        if place is None:
            continue
        model = Run(place, reporter).reward_models()
        sides[name] = [
            model.score([p.prompt for p in pairs], texts).tolist()
            for texts in ([p.chosen for p in pairs], [p.rejected for p in pairs])
        ]
    return {
        "finished": folder.stages()["reward"]["finished"],
        "prompts": [pair.prompt_id for pair in pairs],
        "reward": sides,
    }


def write_summary(folder: RunDir, rounds: int, *, reproduce: str | None = None) -> dict[str, Any]:
    """Write rounds.json and rounds.html from the files of the rounds; returns the content of the first."""
    told = []
    for number in range(1, rounds + 1):
        one = RunDir(folder.path / ROUNDS / str(number), folder.config)
        told.append(
            {
                "stages": one.stages(),
                "round": json.loads(one.file(ROUND).read_text(encoding="utf-8")),
                "rows": read_rows(one.file("evaluation.jsonl")),
                "pairs": read_jsonl(one.file("preferences.jsonl"), Preference),
            }
        )
    content = summarise_rounds(told, folder.config, reproduce=reproduce)
    write_text(folder.file(SUMMARY), json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    write_text(folder.file(PAGE), render_rounds(content))
    return content


def closing_lines(content: dict[str, Any], folder: Path) -> list[str]:
    """What a person reads at the end."""
    return [content["sentence"], f"report: {folder / PAGE}; every round's own: {folder / ROUNDS}/N/report.html"]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
