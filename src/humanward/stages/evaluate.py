"""Stage 5: before and after on prompts never trained on, judged by a classifier that was not the reward."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from humanward.evaluation.rows import Answer, EvaluationRow, write_rows
from humanward.models.base import SharedBase
from humanward.models.sampling import Response, as_tokens, sample
from humanward.records import Prompt
from humanward.reward.sources import RewardSource
from humanward.stages.context import EVALUATION_SEED, Run


@dataclass(frozen=True)
class Answers:
    """One side's answers: texts, responses, and per answer (N,) negative log-likelihood under the reference and k1."""

    texts: list[str]
    responses: list[Response]
    reference_nll: torch.Tensor
    sequence_kl: torch.Tensor


def run_evaluate(run: Run) -> None:
    """Write evaluation.jsonl: every test prompt answered by reference and policy with the same random numbers."""
    started = time.perf_counter()
    run.folder.facts("align", f"run `humanward align --run {run.folder.path}`")
    base, config = run.base(), run.config
    _load_trained_policy(run)
    prompts = run.prompts("test")[: config.evaluation.prompts]
    asked = [prompt for prompt in prompts for _ in range(config.evaluation.samples)]
    rewards: dict[str, RewardSource] = {"toxicity": run.classifier("judge")}
    rewards["reward"] = run.classifier("reward") if config.reward.source == "classifier" else run.reward_model()
    if run.folder.stages().get("feedback", {}).get("gold") is not None:
        rewards["gold"] = run.gold()
    sides: dict[str, Answers] = {}
    with run.reporter.track("evaluate", 2 * len(asked)) as tracker:
        for offset, (side, role) in enumerate((("before", "reference"), ("after", "policy"))):
            sides[side] = answer(
                run, base, role, asked, lambda done, o=offset, s=side: tracker.at(o * len(asked) + done, s)
            )
    rows = [[] for _ in sides]  # type: list[list[Answer]]
    for answers, out in zip(sides.values(), rows, strict=True):
        scores = {name: source.score(asked, answers.texts) for name, source in rewards.items()}
        out += [_one(answers, scores, i) for i in range(len(asked))]
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
        truncated=run.classifier("judge").truncated,
    )


def answer(run: Run, base: SharedBase, role: str, prompts: Sequence[Prompt], progress) -> Answers:  # type: ignore[no-untyped-def]
    """Sampled answers of ``role`` with their likelihood under reference and policy."""
    ids = [base.prompt_ids(prompt) for prompt in prompts]
    samples = run.config.evaluation.samples
    keys = [f"evaluate\x1f{prompt.id}\x1f{i % samples}" for i, prompt in enumerate(prompts)]
    with base.role(role):
        responses = sample(base, ids, keys, run.config.sampling, seed=run.seed(EVALUATION_SEED), progress=progress)
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
    return Answers(texts, responses, torch.cat(nll).cpu(), torch.cat(kl).cpu())


def _one(answers: Answers, scores: dict[str, torch.Tensor], i: int) -> Answer:
    def of(name: str) -> float | None:
        if name not in scores:
            return None
        value = float(scores[name][i])
        return value if value == value else None

    return Answer(
        text=answers.texts[i],
        tokens=len(answers.responses[i].ids),
        ended=answers.responses[i].ended,
        toxicity=of("toxicity"),
        reference_nll=float(answers.reference_nll[i]),
        sequence_kl=float(answers.sequence_kl[i]),
        reward=of("reward"),
        gold=of("gold"),
    )


def _load_trained_policy(run: Run) -> None:
    """The adapter that the align stage wrote, also when this process did not train it."""
    run.base().replace_role("policy", run.folder.file("adapter"))
