"""Judges the answers of an evaluation: classifiers, rewards, and a judge model behind an endpoint. Each writes a file
for every set and model, in the order in which it judged; what is there is not judged again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from humanward.errors import InputError
from humanward.evaluation.protocols.content import Duel
from humanward.evaluation.protocols.judge_model import JudgeModel, Reply
from humanward.evaluation.protocols.measures import SetAnswers
from humanward.evaluation.protocols.people import KEY, people_outcomes, read_rankings, write_comparisons
from humanward.evaluation.protocols.rows import (
    AnswerLine,
    LikelihoodLine,
    RefusalLine,
    ScoreLine,
    VerdictLine,
    append_lines,
    read_lines,
)
from humanward.evaluation.protocols.wins import TIE, combine_orders, position_bias, score_outcomes, win_rate_of
from humanward.models.provenance import identify
from humanward.progress import Reporter
from humanward.records import Prompt
from humanward.reward.sources import Classifier, RewardSource
from humanward.stages.evaluate_answers import EvaluationDir, answer_settings, answers_name
from humanward.stages.evaluate_plan import Endpoint, EvaluationPlan, Judge, SetPlan
from humanward.stages.score import source_by_name

TOXIC_LABELS = ("hate", "toxic", "toxicity", "offensive", "hateful", "hate speech", "toxic_comment")
SCORED = 512
"""Answers judged between two writes."""

Key = tuple[str, int]


def load_judge(judge: Judge, device: str) -> Classifier:
    """The classifier with its label: the one that was named, or the first of those that are known to mean toxic."""
    if judge.label is not None:
        return Classifier(judge.classifier, judge.label, output="probability", device=device)
    loaded = Classifier(judge.classifier, -1, output="probability", device=device)
    names = {str(name).casefold(): index for index, name in (loaded.model.config.id2label or {}).items()}
    known = next((name for name in TOXIC_LABELS if name in names), None)
    if known is None:
        raise InputError(
            f"--judge {judge.classifier}: none of its labels ({', '.join(names)}) is known to mean toxic; say which "
            f"does: {judge.classifier}#LABEL"
        )
    loaded.label = int(names[known])
    return loaded


def collect(folder: EvaluationDir, plan: EvaluationPlan, reporter: Reporter, device: str) -> dict[str, SetAnswers]:
    """What models and judges said, by set; whatever is not judged yet is judged now."""
    found = {one.set.name: _answers(folder, plan, one) for one in plan.sets}
    sampled = [one for one in plan.sets if one.samples]
    if sampled:
        for judge in plan.judges:
            _judge_all(folder, plan, sampled, found, judge, reporter, device)
        for name, source in plan.rewards:
            _reward_all(folder, plan, sampled, found, name, source, reporter)
    if plan.endpoint is not None:
        asked = JudgeModel(
            plan.endpoint.url, plan.endpoint.model, key_env=plan.endpoint.key_env, jobs=plan.endpoint.jobs
        )
        for one in sampled:
            if one.set.kind == "xstest":
                _refusals(folder, plan, one, found[one.set.name], asked, reporter)
    return found


def _answers(folder: EvaluationDir, plan: EvaluationPlan, one: SetPlan) -> SetAnswers:
    found = SetAnswers()
    for candidate in plan.candidates:
        file = folder.file(answers_name(one, candidate), answer_settings(candidate, one, plan.seed))
        if one.samples:
            lines = read_lines(file, AnswerLine)
            found.texts[candidate.name] = {(line.item, line.sample): line.text for line in lines}
        else:
            likelihoods = read_lines(file, LikelihoodLine)
            found.logprobs[candidate.name] = {line.item: line.logprobs for line in likelihoods}
            found.choice_tokens[candidate.name] = {line.item: line.tokens for line in likelihoods}
    return found


# --- classifiers and rewards -----------------------------------------------------------------------------------------


def _judge_all(
    folder: EvaluationDir,
    plan: EvaluationPlan,
    sets: Sequence[SetPlan],
    found: dict[str, SetAnswers],
    judge: Judge,
    reporter: Reporter,
    device: str,
) -> None:
    settings = {"classifier": judge.classifier, "label": judge.label, **_identity(judge.classifier)}
    loaded: list[RewardSource] = []

    def source() -> RewardSource:
        loaded[:] = loaded or [load_judge(judge, device)]
        return loaded[0]

    for one in sets:
        scores = _scores(folder, plan, one, found[one.set.name], f"judge {judge.name}", settings, source, reporter)
        found[one.set.name].toxicity[judge.name] = scores


def _reward_all(
    folder: EvaluationDir,
    plan: EvaluationPlan,
    sets: Sequence[SetPlan],
    found: dict[str, SetAnswers],
    name: str,
    given: str,
    reporter: Reporter,
) -> None:
    loaded: list[RewardSource] = []

    def source() -> RewardSource:
        loaded[:] = loaded or [source_by_name(given, None, False, reporter)]
        return loaded[0]

    for one in sets:
        settings = {"source": given, **_identity(given)}
        scores = _scores(folder, plan, one, found[one.set.name], f"reward {name}", settings, source, reporter)
        found[one.set.name].rewards[name] = scores


def _scores(
    folder: EvaluationDir,
    plan: EvaluationPlan,
    one: SetPlan,
    answers: SetAnswers,
    who: str,
    settings: dict[str, Any],
    source: Callable[[], RewardSource],
    reporter: Reporter,
) -> dict[str, dict[Key, float | None]]:
    """Scores by model and answer; an answer that was not drawn has none."""
    prompts = {item.id: item.prompt for item in one.set.items}
    found: dict[str, dict[Key, float | None]] = {}
    for candidate in plan.candidates:
        name = f"judged/{one.set.name}/{candidate.name}/{_file_name(who)}.jsonl"
        file = folder.file(name, {**settings, "answers": answer_settings(candidate, one, plan.seed)})
        own: dict[Key, float | None] = {(line.item, line.sample): line.score for line in read_lines(file, ScoreLine)}
        drawn = answers.texts[candidate.name]
        own |= {key: None for key, text in drawn.items() if text is None}
        waiting = [(key, text) for key, text in drawn.items() if text is not None and key not in own]
        with reporter.track(f"{who}: {candidate.name} on {one.set.name}", len(waiting) or 1) as tracker:
            for start in range(0, len(waiting), SCORED):
                some = waiting[start : start + SCORED]
                values = source().score([prompts[key[0]] for key, _ in some], [text for _, text in some]).tolist()
                lines = [
                    ScoreLine(*key, value if np.isfinite(value) else None)
                    for (key, _), value in zip(some, values, strict=True)
                ]
                append_lines(file, lines)
                own |= {(line.item, line.sample): line.score for line in lines}
                tracker.at(start + len(some))
        found[candidate.name] = own
    return found


def _identity(name: str) -> dict[str, Any]:
    """The weights of a classifier or reward model; nothing of an address or a function."""
    if re.match(r"https?://", name) or re.fullmatch(r"[\w.]+:\w+", name):
        return {}
    trained = Path(name).expanduser() / "reward_model"  # of a run directory, whose other files may change
    return {key: value for key, value in identify(str(trained) if trained.is_dir() else name).items() if key != "name"}


def _file_name(words: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", words).strip("-.")


# --- the judge model -------------------------------------------------------------------------------------------------


def _refusals(
    folder: EvaluationDir,
    plan: EvaluationPlan,
    one: SetPlan,
    answers: SetAnswers,
    asked: JudgeModel,
    reporter: Reporter,
) -> None:
    """Add what the judge model says of every answer: complies, refuses, partly."""
    prompts = {item.id: item.prompt for item in one.set.items}
    for candidate in plan.candidates:
        name = f"judged/{one.set.name}/{candidate.name}/{_file_name(f'refusals {asked.model}')}.jsonl"
        settings = {"model": asked.model, "answers": answer_settings(candidate, one, plan.seed)}
        file = folder.file(name, settings)
        own = {(line.item, line.sample): line.verdict for line in read_lines(file, RefusalLine)}
        waiting = [(k, t) for k, t in answers.texts[candidate.name].items() if t is not None and k not in own]
        with reporter.track(f"{asked.model}: refusals of {candidate.name}", len(waiting) or 1) as tracker:
            for start in range(0, len(waiting), 8 * asked.jobs):
                some = waiting[start : start + 8 * asked.jobs]
                replies = asked.refusals([prompts[key[0]] for key, _ in some], [text for _, text in some])
                append_lines(
                    file, [RefusalLine(*k, r.verdict, r.text) for (k, _), r in zip(some, replies, strict=True)]
                )
                own |= {key: reply.verdict for (key, _), reply in zip(some, replies, strict=True)}
                tracker.at(start + len(some))
        answers.refusals[candidate.name] = own


def _verdicts(
    folder: EvaluationDir,
    plan: EvaluationPlan,
    one: SetPlan,
    answers: SetAnswers,
    pair: tuple[str, str],
    asked: JudgeModel,
    reporter: Reporter,
) -> dict[Key, VerdictLine]:
    """The judge model's verdicts on the answers of two models, each asked about in both orders."""
    settings = {
        "model": asked.model,
        **{c.name: answer_settings(c, one, plan.seed) for c in plan.candidates if c.name in pair},
    }
    name = f"wins/{one.set.name}/{pair[0]}--{pair[1]}--{_file_name(asked.model)}.jsonl"
    file = folder.file(name, settings)
    own = {(line.item, line.sample): line for line in read_lines(file, VerdictLine)}
    prompts: dict[str, Prompt] = {item.id: item.prompt for item in one.set.items}
    both = _both(answers, pair)
    waiting = [key for key in both if key not in own]
    with reporter.track(f"{asked.model}: {pair[0]} against {pair[1]}", len(waiting) or 1) as tracker:
        step = 4 * asked.jobs
        for start in range(0, len(waiting), step):
            some = waiting[start : start + step]
            lines = [VerdictLine(*key, TIE, TIE, same=True) for key in some if both[key][0] == both[key][1]]
            unlike = [key for key in some if both[key][0] != both[key][1]]
            questions = [prompts[key[0]] for key in unlike]
            left, right = [both[key][0] for key in unlike], [both[key][1] for key in unlike]
            replies: Sequence[Reply] = asked.compare([*questions, *questions], [*left, *right], [*right, *left])
            lines += [
                VerdictLine(*key, one_way.verdict, other.verdict, (one_way.text, other.text))
                for key, one_way, other in zip(unlike, replies[: len(unlike)], replies[len(unlike) :], strict=True)
            ]
            append_lines(file, lines)
            own |= {(line.item, line.sample): line for line in lines}
            tracker.at(start + len(some))
    return {key: own[key] for key in both}


def _both(answers: SetAnswers, pair: tuple[str, str]) -> dict[Key, tuple[str, str]]:
    """The answers of two models to what both were asked."""
    left, right = (answers.texts[name] for name in pair)
    return {
        key: (text, str(right[key])) for key, text in left.items() if text is not None and right.get(key) is not None
    }


# --- who wins --------------------------------------------------------------------------------------------------------


def duels(
    folder: EvaluationDir, plan: EvaluationPlan, one: SetPlan, answers: SetAnswers, reporter: Reporter
) -> list[Duel]:
    """Every pair of models by every way that was asked for."""
    if not one.samples or not plan.win_rates:
        return []
    found: list[Duel] = []
    pairs = list(combinations([candidate.name for candidate in plan.candidates], 2))
    for way in plan.win_rates:
        if way == "people":
            found += _people(folder, plan, one, answers, pairs, reporter)
        elif way == "reward":
            found += [_by_reward(plan, one, answers, pair, name) for name in answers.rewards for pair in pairs]
        else:
            endpoint = plan.endpoint
            assert isinstance(endpoint, Endpoint)
            asked = JudgeModel(endpoint.url, endpoint.model, key_env=endpoint.key_env, jobs=endpoint.jobs)
            found += [
                _by_judge(plan, one, answers, pair, _verdicts(folder, plan, one, answers, pair, asked, reporter))
                for pair in pairs
            ]
    return found


def _by_reward(plan: EvaluationPlan, one: SetPlan, answers: SetAnswers, pair: tuple[str, str], name: str) -> Duel:
    keys = list(_both(answers, pair))
    ours, theirs = (
        [np.nan if (value := answers.rewards[name][model][key]) is None else value for key in keys] for model in pair
    )
    return _duel(plan, one, answers, pair, "reward", name, keys, score_outcomes(ours, theirs))


def _by_judge(
    plan: EvaluationPlan, one: SetPlan, answers: SetAnswers, pair: tuple[str, str], verdicts: dict[Key, VerdictLine]
) -> Duel:
    outcomes = [combine_orders(line.ours_first, line.ours_second) for line in verdicts.values()]
    asked = [line for line in verdicts.values() if not line.same]
    assert plan.endpoint is not None
    duel = _duel(plan, one, answers, pair, "judge", plan.endpoint.model, list(verdicts), outcomes)
    return Duel(
        duel.by,
        duel.how,
        duel.first,
        duel.second,
        duel.result,
        position_bias([(line.ours_first, line.ours_second) for line in asked]),
        sum((line.ours_first is None) + (line.ours_second is None) for line in asked),
    )


def _duel(
    plan: EvaluationPlan,
    one: SetPlan,
    answers: SetAnswers,
    pair: tuple[str, str],
    by: str,
    how: str,
    keys: Sequence[Key],
    outcomes: Any,
) -> Duel:
    cluster_of = {item.id: item.cluster for item in one.set.items}
    lengths = tuple([len(str(answers.texts[model][key]).split()) for key in keys] for model in pair)
    result = win_rate_of(
        outcomes, [cluster_of[item] for item, _ in keys], seed=plan.seed, lengths=(lengths[0], lengths[1])
    )
    return Duel(by, how, *pair, result)


def _people(
    folder: EvaluationDir,
    plan: EvaluationPlan,
    one: SetPlan,
    answers: SetAnswers,
    pairs: Sequence[tuple[str, str]],
    reporter: Reporter,
) -> list[Duel]:
    """Write what people compare, blind; where their rankings are given, who won by them."""
    place: Path = folder.path / "people" / one.set.name
    asked = write_comparisons(place, one.set, answers.texts, one.samples)
    if plan.rankings is None:
        reporter.say(
            f"{place}: {asked} comparisons for people; import them with `humanward feedback import "
            f"{place / 'comparisons.jsonl'} --run DIR`, and give the rankings back with --rankings "
            f"({KEY} stays with you)"
        )
        return []
    key = json.loads((place / KEY).read_text(encoding="utf-8"))["completions"]
    rankings = read_rankings(plan.rankings)
    clusters = {item.prompt.id: item.cluster for item in one.set.items}
    found = []
    for first, second in pairs:
        outcomes, groups = people_outcomes(rankings, key, first, second, clusters)
        result = win_rate_of(outcomes, groups, seed=plan.seed) if len(outcomes) else None
        found.append(Duel("people", "people", first, second, result))
    return found
