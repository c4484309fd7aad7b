"""What scores responses, built from the configuration, and what the report calls it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from humanward.algorithm_config import OFF_POLICY, ON_POLICY
from humanward.config import RunConfig
from humanward.models.base import SharedBase
from humanward.models.tokens import Tokens
from humanward.records import Completion, Prompt, read_jsonl
from humanward.reward.combined import Anchor, CombinedReward, Part, anchor_on
from humanward.reward.function import FunctionReward
from humanward.reward.model import RewardEnsemble, RewardModel
from humanward.reward.rules import MEASURES, LengthRule, PatternRule, read_words, word_pattern
from humanward.reward.sources import RewardSource, Scored, in_detail
from humanward.reward_config import (
    ClassifierSource,
    FunctionSource,
    GoldSource,
    HttpSource,
    LengthSource,
    RegexSource,
    SourceConfig,
    TrainedSource,
    WordsSource,
)
from humanward.rl.rollouts import respond
from humanward.run_dir import write_text
from humanward.stages.context import SAMPLE_SEED, Run

ANCHORS = "reward_anchors.json"


def reward_name(config: RunConfig) -> str:
    """What the report calls the reward."""
    return config.reward.described("the rankings")


def measures_reward(run: Run) -> bool:
    """Whether evaluation records a reward: off-policy runs have one only where it lies ready."""
    ready = not run.config.reward.trains or run.folder.file("reward_model").exists()
    return run.config.algorithm not in OFF_POLICY or ready


# --- sources -----------------------------------------------------------------------------------------------------


def reward_source(run: Run, *, fresh: bool = False) -> RewardSource:
    """The configured reward, loaded once. ``fresh`` measures the anchors of combined sources anew."""
    match run.config.reward.source:
        case "classifier":
            return run.classifier("reward")
        case "trained":
            return run.reward_models()
    if run._combined is None or fresh:
        parts = [
            Part(source.name or source.kind, build_source(run, source), source.weight)
            for source in run.config.reward.sources
        ]
        run._combined = _anchored(run, CombinedReward(parts), fresh=fresh)
    return run._combined


def check_reward(run: Run) -> None:
    """Load what the reward needs and does not train itself; InputError for what is wrong with it."""
    reward = run.config.reward
    if reward.source == "classifier":
        run.classifier("reward")
    for use, sources in (
        ("reward", reward.sources),
        ("monitor", run.config.monitors.sources),
        ("constraint", run.config.constraint.sources),
    ):
        for source in sources:
            if source.kind not in ("trained", "length"):
                build_source(run, source, use)


def build_source(run: Run, source: SourceConfig, use: str = "reward") -> RewardSource:
    """One of the combined sources; a new kind gets a case here. ``use`` keeps apart what is called alike."""
    name = source.name or source.kind
    match source:
        case TrainedSource():
            return run.reward_models()
        case ClassifierSource():
            return run.load_classifier(
                f"{use} {name}", source.classifier, source.label, source, source.output, source.revision
            )
        case LengthSource():
            length = MEASURES.get(source.per) or (lambda text: len(run.base().response_ids(text, ended=False)))
            return LengthRule(length, source.target, name)
        case RegexSource():
            flags = re.IGNORECASE if source.ignore_case else 0
            return PatternRule(re.compile(source.pattern, flags), source.measure, name)
        case WordsSource():
            words = source.words or read_words(Path(source.path or "").expanduser())
            return PatternRule(word_pattern(words, ignore_case=source.ignore_case), source.measure, name)
        case FunctionSource():
            return FunctionReward(source.function, name)
        case GoldSource():
            return run.gold()
        case HttpSource():
            from humanward.reward.remote import RemoteReward

            return RemoteReward(source, name)


# --- anchors -----------------------------------------------------------------------------------------------------


def _anchored(run: Run, reward: CombinedReward, *, fresh: bool) -> CombinedReward:
    """The combination with its sources' anchors: those in reward_anchors.json, or measured and written there."""
    file = run.folder.file(ANCHORS)
    if fresh or not file.exists():
        write_text(file, json.dumps(_measure_anchors(run, reward), indent=1) + "\n")
    known = json.loads(file.read_text(encoding="utf-8"))["sources"]
    return CombinedReward(
        [Part(part.name, part.source, part.weight, Anchor(**known[part.name])) for part in reward.parts]
    )


def _measure_anchors(run: Run, reward: CombinedReward) -> dict[str, Any]:
    """What reward_anchors.json holds: how many reference samples, and the anchors of sources and total on them.

    The samples have one seed whatever the run's, so that runs of other seeds sum the sources in equal proportions.
    """
    whole = run.config.algorithm in ON_POLICY and run.config.ppo.anchor_scores
    if not whole and not any(source.anchor for source in run.config.reward.sources):
        return {"samples": 0, "sources": {part.name: asdict(Anchor()) for part in reward.parts}}
    prompts, texts = reference_samples(run, run.prompts("train"), seed=SAMPLE_SEED)
    scored = [in_detail(part.source, prompts, texts) for part in reward.parts]
    anchors, remedy = [], "set its anchor = false"
    for source, part, one in zip(run.config.reward.sources, reward.parts, scored, strict=True):
        where = f"reward.sources: {part.name}"
        anchors.append(anchor_on(one.scores, where, remedy) if source.anchor else Anchor())
    parts = [
        Part(part.name, part.source, part.weight, anchor) for part, anchor in zip(reward.parts, anchors, strict=True)
    ]
    found: dict[str, Any] = {
        "samples": len(texts),
        "sources": {part.name: asdict(part.anchor) for part in parts},
    }
    if whole:
        total = CombinedReward(parts).combine(scored).scores
        found["total"] = asdict(anchor_on(total, "the combined reward", "set ppo.anchor_scores = false"))
    return found


def source_facts(run: Run) -> list[dict[str, Any]]:
    """For the report: name, kind, weight and anchor of each of the combined sources; anchors None where unmeasured."""
    file = run.folder.file(ANCHORS)
    known = json.loads(file.read_text(encoding="utf-8"))["sources"] if file.exists() else {}
    unknown = {"shift": None, "scale": None}
    return [
        {"name": name, "kind": one.kind, "weight": one.weight, **known.get(name, unknown)}
        for one in run.config.reward.sources
        for name in [one.name or one.kind]
    ]


def reference_samples(run: Run, prompts: Sequence[Prompt], *, seed: int) -> tuple[list[Prompt], list[str]]:
    """Training prompts with one answer each of the reference: those of the sample stage, or new ones, drawn once."""
    file = run.folder.file("completions.jsonl")
    # From the second round on the sample stage answers as the policy so far, not as the reference.
    if run.config.rounds.number == 1 and "sample" in run.folder.stages() and file.exists():
        by_id = {p.id: p for p in prompts}
        found = [(by_id[c.prompt_id], c.text) for c in read_jsonl(file, Completion) if c.prompt_id in by_id]
        return [p for p, _ in found], [text for _, text in found]
    if seed not in run._reference_samples:
        some = list(prompts[:256])
        with run.base().role("reference"):
            _, texts = respond(run.base(), some, run.config.sampling, seed=seed, step=0)
        run._reference_samples[seed] = some, texts
    return run._reference_samples[seed]


# --- what training scores with -----------------------------------------------------------------------------------


class RewardScorer:
    """The trainer's scorer: (prompts, texts, tokens) -> anchored scores (B,). ``parts`` are those of the last call."""

    def __init__(self, run: Run, source: RewardSource, anchor: Anchor = Anchor()) -> None:
        self.run, self.source, self.anchor = run, source, anchor
        self.parts: dict[str, torch.Tensor] = {}

    def __call__(self, asked: Sequence[Prompt], texts: Sequence[str], tokens: Tokens) -> torch.Tensor:
        scored = self._detail(self.source, asked, texts, tokens)
        self.parts = scored.parts
        return self.anchor(scored.scores).to(tokens.response_ids.device)

    def metrics(self) -> dict[str, float]:
        """``ppo/reward/NAME_mean`` and ``_std`` over the last batch of each part of the reward, as it scored itself."""
        found = {}
        for name, values in self.parts.items():
            found[f"ppo/reward/{name}_mean"] = float(values.mean())
            found[f"ppo/reward/{name}_std"] = float(values.std(correction=0))
        return found

    def _detail(self, source: RewardSource, asked: Sequence[Prompt], texts: Sequence[str], tokens: Tokens) -> Scored:
        if isinstance(source, CombinedReward):
            return source.combine([self._detail(part.source, asked, texts, tokens) for part in source.parts])
        if not isinstance(source, RewardModel | RewardEnsemble):
            return in_detail(source, asked, texts)
        if not self.run.config.sampling.stop:
            return source.detail_tokens(tokens)
        # The tokens still hold the stop text; the reward model learned from texts cut before it.
        return source.detail(asked, texts, _ended(self.run.base(), texts, tokens))


def build_scorer(run: Run, prompts: Sequence[Prompt]) -> RewardScorer:
    """The configured reward as the trainer's scorer, anchored on reference samples as ``ppo.anchor_scores`` says.

    A single trained reward model is anchored already, on the completions that it was trained on.
    """
    source = reward_source(run, fresh=True)
    if not run.config.ppo.anchor_scores or isinstance(source, RewardModel):
        return RewardScorer(run, source)
    if isinstance(source, CombinedReward):
        known = json.loads(run.folder.file(ANCHORS).read_text(encoding="utf-8"))
        return RewardScorer(run, source, Anchor(**known["total"]))
    present = source.score(*reference_samples(run, prompts, seed=run.seed(SAMPLE_SEED)))
    return RewardScorer(run, source, anchor_on(present, reward_name(run.config), "set ppo.anchor_scores = false"))


def _ended(base: SharedBase, texts: Sequence[str], tokens: Tokens) -> list[bool]:
    """Whether each response ended, by an end token or a stop text: then ``texts`` holds less than its tokens say."""
    found = []
    for text, ids, mask in zip(texts, tokens.response_ids, tokens.response_mask, strict=True):
        written = ids[mask].tolist()
        found.append(written[-1] in base.stop_ids or base.response_text(written) != text)
    return found
