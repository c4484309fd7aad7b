"""Stage 5: before and after on prompts never trained on, judged by a classifier that was not the reward."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from humanward.evaluation.best_of_n import analytic_kl
from humanward.evaluation.rows import Answer, EvaluationRow, write_rows
from humanward.models.base import SharedBase
from humanward.models.sampling import Response, as_tokens, sample
from humanward.progress import Tracker
from humanward.records import Prompt
from humanward.reward.sources import RewardSource, in_detail
from humanward.stages.best_of_n import best_places, draw_candidates, write_test_frontier
from humanward.stages.context import EVALUATION_SEED, Run
from humanward.stages.scoring import measures_reward, reward_source


@dataclass(frozen=True)
class Answers:
    """One side's answers: texts, responses, and per answer (N,) negative log-likelihood under the reference and k1."""

    texts: list[str]
    responses: list[Response]
    reference_nll: torch.Tensor
    sequence_kl: torch.Tensor


def run_evaluate(run: Run) -> None:
    """Write evaluation.jsonl: every test prompt answered by reference and policy with the same random numbers."""
    started, cut = time.perf_counter(), run.truncated()
    run.folder.facts("align", f"run `humanward align --run {run.folder.path}`")
    config = run.config
    prompts = run.prompts("test")[: config.evaluation.prompts]
    asked = [prompt for prompt in prompts for _ in range(config.evaluation.samples)]
    rewards: dict[str, RewardSource] = {"toxicity": run.classifier("judge")}
    if measures_reward(run):
        rewards["reward"] = reward_source(run)
    if run.folder.stages().get("feedback", {}).get("gold") is not None:
        rewards["gold"] = run.gold()
    chosen = config.best_of_n.samples if config.algorithm == "best-of-n" else 2
    with run.reporter.track("evaluate", chosen * len(asked)) as tracker:
        sides = (first_and_best if config.algorithm == "best-of-n" else before_and_after)(run, asked, tracker)
    rows = [[] for _ in sides]  # type: list[list[Answer]]
    for answers, out in zip(sides, rows, strict=True):
        scored = {name: in_detail(source, asked, answers.texts) for name, source in rewards.items()}
        scores = {name: one.scores for name, one in scored.items()}
        parts = scored["reward"].parts if "reward" in scored else {}
        out += [_one(answers, scores, parts, i) for i in range(len(asked))]
    write_rows(
        run.folder.file("evaluation.jsonl"),
        [
            EvaluationRow(p.id, p.text, i % config.evaluation.samples, before, after)
            for i, (p, before, after) in enumerate(zip(asked, *rows, strict=True))
        ],
    )
    run.folder.finish(
        "evaluate",
        time.perf_counter() - started,
        prompts=len(prompts),
        samples=config.evaluation.samples,
        judge=config.evaluation.judge,
        truncated=run.truncated(cut),
    )


def before_and_after(run: Run, asked: Sequence[Prompt], tracker: Tracker) -> tuple[Answers, Answers]:
    """One answer of the reference and one of the trained policy to each prompt, drawn with the same random numbers."""
    base = run.base()
    _load_trained_policy(run)
    ids, keys = [base.prompt_ids(prompt) for prompt in asked], _keys(run, asked)
    sides = []
    for earlier, side, role in ((0, "before", "reference"), (len(asked), "after", "policy")):

        def at(done: int, earlier: int = earlier, side: str = side) -> None:
            tracker.at(earlier + done, side)

        with base.role(role):
            responses = sample(base, ids, keys, run.config.sampling, seed=run.seed(EVALUATION_SEED), progress=at)
        sides.append(measured(run, base, role, ids, responses))
    return sides[0], sides[1]


def first_and_best(run: Run, asked: Sequence[Prompt], tracker: Tracker) -> tuple[Answers, Answers]:
    """The first of n answers of the reference to each prompt, and the one with the highest reward among them.

    The KL of the chosen is the analytic upper bound, the same for every answer. All candidates are judged and written
    to frontier.json.
    """
    base, n = run.base(), run.config.best_of_n.samples
    candidates = draw_candidates(run, asked, _keys(run, asked), seed=run.seed(EVALUATION_SEED), progress=tracker.at)
    write_test_frontier(run, candidates, run.classifier("judge").score(candidates.prompts, candidates.texts).tolist())
    sides = []
    for places in (list(range(0, len(candidates.ids), n)), best_places(candidates.rewards, n)):
        ids, responses = [candidates.ids[i] for i in places], [candidates.responses[i] for i in places]
        sides.append(measured(run, base, "reference", ids, responses))
    return sides[0], replace(sides[1], sequence_kl=torch.full_like(sides[1].sequence_kl, analytic_kl(n)))


def _keys(run: Run, asked: Sequence[Prompt]) -> list[str]:
    samples = run.config.evaluation.samples
    return [f"evaluate\x1f{prompt.id}\x1f{i % samples}" for i, prompt in enumerate(asked)]


def measured(
    run: Run, base: SharedBase, role: str, ids: Sequence[Sequence[int]], responses: Sequence[Response]
) -> Answers:
    """Answers of ``role`` with their likelihood under reference and policy."""
    nll, kl = [], []
    temperature = run.config.sampling.temperature
    for start in range(0, len(ids), 32):
        tokens = as_tokens(base, ids[start : start + 32], responses[start : start + 32])
        with torch.no_grad(), base.role("reference"):
            plain, _, _ = base.logprobs(tokens)
            tempered = plain if temperature == 1.0 else base.logprobs(tokens, temperature=temperature)[0]
        nll.append(-plain.sum(1))
        if role == "reference":
            kl.append(torch.zeros(len(tokens)))
            continue
        with torch.no_grad(), base.role(role):
            own, _, _ = base.logprobs(tokens, temperature=temperature)
        kl.append((own - tempered).sum(1))
    texts = [base.response_text(r.ids, run.config.sampling.stop) for r in responses]
    return Answers(texts, list(responses), torch.cat(nll).cpu(), torch.cat(kl).cpu())


def _one(answers: Answers, scores: dict[str, torch.Tensor], parts: dict[str, torch.Tensor], i: int) -> Answer:
    def known(values: torch.Tensor) -> float | None:
        value = float(values[i])
        return value if value == value else None

    def of(name: str) -> float | None:
        return known(scores[name]) if name in scores else None

    return Answer(
        text=answers.texts[i],
        tokens=len(answers.responses[i].ids),
        ended=answers.responses[i].ended,
        toxicity=of("toxicity"),
        reference_nll=float(answers.reference_nll[i]),
        sequence_kl=float(answers.sequence_kl[i]),
        reward=of("reward"),
        gold=of("gold"),
        reward_parts={name: known(values) for name, values in parts.items()},
    )


def _load_trained_policy(run: Run) -> None:
    """The adapter that the align stage wrote, also when this process did not train it."""
    run.base().replace_role("policy", run.policy_folder)
