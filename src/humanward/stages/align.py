"""Stage 4: PPO moves the policy towards the reward, held near the reference by a KL penalty."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from humanward.config import RunConfig
from humanward.models.tokens import Tokens
from humanward.records import Completion, Prompt, read_jsonl
from humanward.rl.rollouts import Scorer, respond
from humanward.rl.trainer import Metrics, PPOTrainer
from humanward.run_dir import new_folder
from humanward.stages.context import ROLLOUT_SEED, SAMPLE_SEED, Run


def run_align(run: Run) -> None:
    """Train the policy; write metrics.jsonl (``ppo/...``) and adapter/ in PEFT's format."""
    started = time.perf_counter()
    base, config = run.base(), run.config.ppo
    prompts = run.prompts("train")
    scorer = build_scorer(run, prompts)
    judge = run.classifier("judge")
    warnings: list[str] = []

    def alarm(line: str) -> None:
        warnings.append(line)
        run.reporter.warn(line)

    texts: list[str] = []

    def watched(asked: Sequence[Prompt], responses: Sequence[str], tokens: Tokens) -> torch.Tensor:
        texts[:] = responses
        return scorer(asked, responses, tokens)

    trainer = PPOTrainer(
        base, config, run.config.sampling, prompts, watched, seed=run.seed(ROLLOUT_SEED), on_alarm=alarm
    )
    run.folder.forget_metrics("ppo")
    kl_at_start, within, stopped = 0.0, trainer.snapshot(), False
    with run.reporter.track("align (PPO)", config.steps) as tracker:
        for step in range(config.steps):
            before = trainer.snapshot()
            metrics = trainer.step()
            # The judge only watches: nothing is chosen or stopped by what it says.
            metrics["ppo/toxicity"] = float(judge.score_texts(texts).mean())
            run.folder.log(metrics)
            if step == 0:
                kl_at_start = metrics["ppo/sequence_kl"]
            tracker.at(step + 1, live_words(metrics))
            if metrics["ppo/sequence_kl"] > config.kl_budget:
                alarm(
                    f"step {step + 1}: KL {metrics['ppo/sequence_kl']:.2f} is above ppo.kl_budget = "
                    f"{config.kl_budget}; training stopped and the last policy within the budget was kept"
                )
                trainer.restore(within)
                stopped = True
                break
            within = before
    with new_folder(run.folder.file("adapter")) as folder:
        base.save_role("policy", folder)
    run.folder.finish(
        "align",
        time.perf_counter() - started,
        steps=trainer.steps_done,
        kl_at_start=kl_at_start,
        stopped_at_budget=stopped,
        reward=reward_name(run.config),
        warnings=warnings,
    )


def live_words(metrics: Metrics) -> str:
    """What a person watches: score, KL in nats a sequence, toxicity."""
    return (
        f"reward {metrics['ppo/score_mean']:+.2f}  KL {metrics['ppo/sequence_kl']:.2f}  "
        f"toxicity {metrics['ppo/toxicity']:.3f}"
    )


def reward_name(config: RunConfig) -> str:
    """What the report calls the reward."""
    if config.reward.source == "classifier":
        return config.reward.classifier
    return config.reward.model or "reward model trained on the rankings"


def build_scorer(run: Run, prompts: Sequence[Prompt]) -> Scorer:
    """The configured reward as the trainer's scorer; a classifier's is anchored on reference samples first."""
    if run.config.reward.source == "trained":
        model = run.reward_model()

        def score_tokens(_prompts: Sequence[Prompt], _texts: Sequence[str], tokens: Tokens) -> torch.Tensor:
            return model.score_tokens(tokens).to(tokens.response_ids.device)

        return score_tokens
    source = run.classifier("reward")
    shift, scale = 0.0, 1.0
    if run.config.ppo.anchor_scores:
        present = source.score(*_reference_samples(run, prompts))
        shift, scale = float(present.mean()), max(float(present.std()), 1e-6)

    def score_texts(asked: Sequence[Prompt], texts: Sequence[str], tokens: Tokens) -> torch.Tensor:
        return ((source.score(asked, texts) - shift) / scale).to(tokens.response_ids.device)

    return score_texts


def _reference_samples(run: Run, prompts: Sequence[Prompt]) -> tuple[list[Prompt], list[str]]:
    """Prompts with one answer each of the reference: those of the sample stage, or new ones."""
    file = run.folder.file("completions.jsonl")
    if "sample" in run.folder.stages() and file.exists():
        by_id = {p.id: p for p in prompts}
        found = [(by_id[c.prompt_id], c.text) for c in read_jsonl(file, Completion) if c.prompt_id in by_id]
        return [p for p, _ in found], [text for _, text in found]
    some = list(prompts[:256])
    with run.base().role("reference"):
        _, texts = respond(run.base(), some, run.config.sampling, seed=run.seed(SAMPLE_SEED), step=0)
    return some, texts
