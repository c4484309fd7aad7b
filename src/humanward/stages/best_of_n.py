"""The best of n answers by the reward: what on-policy training is measured against, and an algorithm without training.

Before training, answers of the reference to validation prompts show how far the reward can be trusted; after it, the
policy answers the same prompts, so that both are drawn against KL on equal prompts and in equal units.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from humanward.config import SamplingConfig
from humanward.evaluation.best_of_n import Frontier, PromptAnswers, summarise_best_of_n, write_frontier
from humanward.models.sampling import Response, as_tokens, sample
from humanward.records import Prompt, read_jsonl
from humanward.rl.rollouts import Scorer
from humanward.stages.context import FRONTIER_SEED, Run
from humanward.stages.scoring import RewardScorer, reward_name, reward_source

FRONTIER = "frontier.json"
POLICY_SAMPLES = 4  # answers of the trained policy to each prompt of the frontier
CHUNK = 32  # responses scored at once


@dataclass(frozen=True)
class Drawn:
    """Responses to prompts (one prompt may come several times) with their texts and rewards, all of one length M."""

    prompts: list[Prompt]
    ids: list[list[int]]
    responses: list[Response]
    texts: list[str]
    rewards: list[float]


# --- the frontier around on-policy training --------------------------------------------------------------------------


def measure_frontier(run: Run, scorer: Scorer) -> Frontier | None:
    """Write frontier.json from answers of the reference to validation prompts and tell what it says of the reward.

    ``scorer`` is the one that training uses, so rewards have its unit. None, with a notice, where there are no
    validation prompts or ``best_of_n.prompts`` is 0.
    """
    config, file = run.config.best_of_n, run.folder.file(FRONTIER)
    file.unlink(missing_ok=True)
    if config.prompts == 0:
        run.reporter.say("best of n: left out, as best_of_n.prompts = 0; the reward is not checked against the judge")
        return None
    prompts = [p for p in read_jsonl(run.folder.file("prompts.jsonl"), Prompt) if p.split == "validation"]
    if not prompts:
        run.reporter.say(
            "best of n: left out, as there are no validation prompts to check the reward on; set prompts.validation "
            "or prompts.validation_fraction"
        )
        return None
    prompts = prompts[: config.prompts]
    with run.reporter.track("best of n", len(prompts) * config.samples) as tracker:
        reference = _answers(run, "reference", prompts, config.samples, scorer, tracker.at)
    frontier = Frontier(
        "validation", config.samples, reward_name(run.config), run.config.evaluation.judge, tuple(reference)
    )
    write_frontier(file, frontier)
    summary = summarise_best_of_n(frontier, seed=run.config.seed)
    (run.reporter.warn if summary.warning else run.reporter.say)(summary.verdict)
    return frontier


def measure_policy(run: Run, scorer: Scorer, frontier: Frontier | None) -> None:
    """Add the trained policy's answers to the same prompts to frontier.json, ``POLICY_SAMPLES`` each."""
    if frontier is None:
        return
    asked = {one.prompt_id for one in frontier.reference}
    prompts = [p for p in read_jsonl(run.folder.file("prompts.jsonl"), Prompt) if p.id in asked]
    with run.reporter.track("policy against best of n", len(prompts) * POLICY_SAMPLES) as tracker:
        policy = _answers(run, "policy", prompts, POLICY_SAMPLES, scorer, tracker.at)
    write_frontier(run.folder.file(FRONTIER), replace(frontier, policy=tuple(policy)))


def _answers(
    run: Run, role: str, prompts: Sequence[Prompt], count: int, scorer: Scorer, progress: Callable[[int], None]
) -> list[PromptAnswers]:
    """``count`` answers of ``role`` to each prompt, sampled as rollouts are, with reward, judge and KL."""
    asked = [prompt for prompt in prompts for _ in range(count)]
    keys = [f"frontier\x1f{prompt.id}\x1f{number}" for prompt in prompts for number in range(count)]
    # The filters of the sample stage would make another distribution than the one that training moves.
    exact = run.config.sampling.unfiltered()
    drawn = draw(run, role, asked, keys, exact, scorer, seed=run.seed(FRONTIER_SEED), progress=progress)
    judged = run.classifier("judge").score(drawn.prompts, drawn.texts).tolist()
    kls = [0.0] * len(asked) if role == "reference" else sequence_kl(run, role, drawn)
    return [
        PromptAnswers(
            prompt_id=prompt.id,
            prompt=prompt.text,
            texts=tuple(drawn.texts[start : start + count]),
            reward=tuple(map(_known, drawn.rewards[start : start + count])),
            toxicity=tuple(map(_known, judged[start : start + count])),
            sequence_kl=tuple(kls[start : start + count]),
        )
        for prompt, start in zip(prompts, range(0, len(asked), count), strict=True)
    ]


def sequence_kl(run: Run, role: str, drawn: Drawn) -> list[float]:
    """sum log p(role) - log p(reference) of each response, nats."""
    base, temperature = run.base(), run.config.sampling.temperature
    found = [0.0] * len(drawn.ids)
    for rows in _by_length(drawn.ids, drawn.responses):
        tokens = as_tokens(base, [drawn.ids[i] for i in rows], [drawn.responses[i] for i in rows])
        sides = []
        for name in (role, "reference"):
            with torch.no_grad(), base.role(name):
                sides.append(base.logprobs(tokens, temperature=temperature)[0])
        for i, kl in zip(rows, (sides[0] - sides[1]).sum(1).tolist(), strict=True):
            found[i] = kl
    return found


def _by_length(ids: Sequence[Sequence[int]], responses: Sequence[Response]) -> list[list[int]]:
    """Places in chunks of similar length, so that little of a batch is padding."""
    order = sorted(range(len(ids)), key=lambda i: (len(ids[i]), len(responses[i].ids), i))
    return [order[start : start + CHUNK] for start in range(0, len(order), CHUNK)]


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


# --- drawing and choosing --------------------------------------------------------------------------------------------


def draw(
    run: Run,
    role: str,
    prompts: Sequence[Prompt],
    keys: Sequence[str],
    sampling: SamplingConfig,
    scorer: Scorer,
    *,
    seed: int,
    progress: Callable[[int], None] = lambda done: None,
) -> Drawn:
    """One response of ``role`` to each prompt, scored; ``keys`` and ``seed`` decide the random numbers."""
    base = run.base()
    room = base.context - sampling.max_new_tokens  # prompts of the run fit; one typed into a chat may not
    ids = [base.prompt_ids(prompt)[-room:] for prompt in prompts]
    with base.role(role):
        responses = sample(base, ids, keys, sampling, seed=seed, progress=progress)
    texts = [base.response_text(response.ids, sampling.stop) for response in responses]
    rewards = [0.0] * len(ids)
    for rows in _by_length(ids, responses):
        tokens = as_tokens(base, [ids[i] for i in rows], [responses[i] for i in rows])
        scores = scorer([prompts[i] for i in rows], [texts[i] for i in rows], tokens).tolist()
        for i, score in zip(rows, scores, strict=True):
            rewards[i] = score
    return Drawn(list(prompts), ids, responses, texts, rewards)


def choosing_scorer(run: Run, *, fresh: bool = False) -> Scorer:
    """The configured reward as it is: choosing needs no anchor of the whole, so none is measured.

    ``fresh`` measures those of combined sources anew.
    """
    return RewardScorer(run, reward_source(run, fresh=fresh))


def draw_candidates(
    run: Run,
    prompts: Sequence[Prompt],
    keys: Sequence[str],
    *,
    seed: int,
    progress: Callable[[int], None] = lambda done: None,
) -> Drawn:
    """``best_of_n.samples`` responses of the reference to each prompt, those of one prompt next to each other.

    The first of them is the response that ``key`` alone draws, so one plain sample and the best of n are a pair.
    """
    n = run.config.best_of_n.samples
    asked = [prompt for prompt in prompts for _ in range(n)]
    numbered = [key if number == 0 else f"{key}\x1fcandidate {number}" for key in keys for number in range(n)]
    scorer = choosing_scorer(run)
    return draw(run, "reference", asked, numbered, run.config.sampling, scorer, seed=seed, progress=progress)


def best_places(rewards: Sequence[float], n: int) -> list[int]:
    """The place of the highest reward in each consecutive ``n``, the first of equals; one that is not finite never wins
    over one that is."""
    known = [value if math.isfinite(value) else -math.inf for value in rewards]
    return [max(range(start, start + n), key=known.__getitem__) for start in range(0, len(known), n)]


# --- the algorithm ---------------------------------------------------------------------------------------------------


def align_best_of_n(run: Run) -> None:
    """Nothing is trained: check that the reward can score, and record the facts that every algorithm records.

    An adapter and metrics that another algorithm left in the folder are taken away, as they are not this run's.
    """
    started = time.perf_counter()
    choosing_scorer(run, fresh=True)
    run.folder.begin("align", "ppo", "offline")
    run.folder.file(FRONTIER).unlink(missing_ok=True)
    shutil.rmtree(run.policy_folder, ignore_errors=True)
    n = run.config.best_of_n.samples
    run.folder.finish(
        "align",
        time.perf_counter() - started,
        algorithm=run.config.algorithm,
        steps=0,
        kl_at_start=0.0,
        stopped_at_budget=False,
        reward=reward_name(run.config),
        warnings=[],
        alarms=[],
        samples=n,
    )
    run.reporter.say(f"best of n: nothing to train; evaluation chooses the best of {n} answers by the reward")


def write_test_frontier(run: Run, candidates: Drawn, judged: Sequence[float]) -> None:
    """frontier.json from the candidates of the evaluation, all of them judged: what a smaller n would have reached."""
    n, samples = run.config.best_of_n.samples, run.config.evaluation.samples
    starts = range(0, len(candidates.prompts), n * samples)  # the first sample's candidates of each prompt
    reference = tuple(
        PromptAnswers(
            prompt_id=candidates.prompts[start].id,
            prompt=candidates.prompts[start].text,
            texts=tuple(candidates.texts[start : start + n]),
            reward=tuple(map(_known, candidates.rewards[start : start + n])),
            toxicity=tuple(map(_known, judged[start : start + n])),
            sequence_kl=(0.0,) * n,
        )
        for start in starts
    )
    frontier = Frontier("test", n, reward_name(run.config), run.config.evaluation.judge, reference)
    write_frontier(run.folder.file(FRONTIER), frontier)
    summary = summarise_best_of_n(frontier, seed=run.config.seed)
    (run.reporter.warn if summary.warning else run.reporter.say)(summary.verdict)
