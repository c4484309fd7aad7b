"""What every stage is given: the run, the shared base (loaded once), and a place to report to."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from humanward import demo
from humanward.config import PromptsConfig, RunConfig
from humanward.errors import InputError
from humanward.models.base import SharedBase
from humanward.models.loading import load_model
from humanward.models.provenance import identify
from humanward.progress import Reporter
from humanward.prompts import PromptFile, PromptForm, content_key, read_prompts, split_prompts
from humanward.records import Prompt, read_jsonl, write_jsonl
from humanward.reward.model import RewardModel, load_reward_model
from humanward.reward.sources import Classifier, Gold
from humanward.run_dir import RunDir

POLICY_SEED, REWARD_SEED, ROLLOUT_SEED, EVALUATION_SEED, SAMPLE_SEED, FRONTIER_SEED = range(6)


@dataclass
class Run:
    """One run in progress."""

    folder: RunDir
    reporter: Reporter
    _base: SharedBase | None = field(default=None, repr=False)
    _classifiers: dict[tuple[str, str], Classifier] = field(default_factory=dict, repr=False)
    _reward_model: RewardModel | None = field(default=None, repr=False)

    @property
    def config(self) -> RunConfig:
        """The run's resolved configuration."""
        return self.folder.config

    def seed(self, purpose: int) -> int:
        """A seed of its own for every purpose, so that no two stages share random numbers."""
        return self.config.seed * 1000 + purpose

    def base(self) -> SharedBase:
        """The policy's base, loaded at first use, with its ``policy`` role."""
        if self._base is None:
            model = self.config.model
            pinned = self.folder.models().get("policy", {})
            if pinned.get("name") == model.policy and pinned.get("commit") is not None:
                # Whatever the hub's branch names by now, a run goes on with the weights that it began with.
                model = model.model_copy(update={"revision": pinned["commit"]})
            base = SharedBase(load_model(model), system_prompt=model.system_prompt)
            room = base.context - self.config.sampling.max_new_tokens
            if room < 1:
                raise InputError(
                    f"sampling.max_new_tokens = {self.config.sampling.max_new_tokens}: leaves no room for a prompt in "
                    f"{base.name}'s context of {base.context} tokens; lower it"
                )
            if model.adapter is None:
                base.add_role("policy", self.config.lora, seed=self.seed(POLICY_SEED))
            else:
                base.start_from(model.adapter)
            for line in base.notices:
                self.reporter.warn(line)
            self.folder.pin("policy", identify(model.policy, model.revision))
            if model.adapter is not None:
                self.folder.pin("adapter", identify(model.adapter))
            self._base = base
        return self._base

    def classifier(self, which: str) -> Classifier:
        """The ``reward``, ``gold`` or ``judge`` classifier of the configuration, loaded once."""
        reward, feedback, evaluation = self.config.reward, self.config.feedback, self.config.evaluation
        device = self.config.model.device
        if (which, "") not in self._classifiers:
            if which == "reward":
                source = Classifier(
                    reward.classifier,
                    reward.label,
                    output=reward.output,
                    text=reward.text,
                    max_tokens=reward.max_tokens,
                    revision=reward.classifier_revision,
                    device=device,
                )
            elif which == "gold":
                source = Classifier(feedback.gold, feedback.gold_label, output=feedback.gold_output, device=device)
            else:
                source = Classifier(
                    evaluation.judge,
                    evaluation.judge_label,
                    output="probability",
                    revision=evaluation.judge_revision,
                    device=device,
                )
            self._classifiers[which, ""] = source
            revisions = {"reward": reward.classifier_revision, "judge": evaluation.judge_revision}
            self.folder.pin(which, identify(source.name, revisions.get(which)))
        return self._classifiers[which, ""]

    def gold(self) -> Gold:
        """What simulated annotators follow."""
        feedback = self.config.feedback
        return Gold(self.classifier("gold"), feedback.short_words, feedback.short_penalty)

    def reward_model(self) -> RewardModel:
        """The trained reward model of this run (or the ready one of the configuration), as a role of the base."""
        if self._reward_model is None:
            given = self.config.reward.model
            folder = Path(given) if given else self.folder.file("reward_model")
            if not given and not folder.exists():
                raise InputError(
                    f"{self.folder.path}: has no trained reward model; "
                    f"run `humanward reward train --run {self.folder.path}`"
                )
            self._reward_model = load_reward_model(self.base(), folder)
        return self._reward_model

    def prompts(self, split: str) -> list[Prompt]:
        """The run's prompts of one split."""
        file = self.folder.file("prompts.jsonl")
        if not file.exists():
            prepare_prompts(self)
        found = [prompt for prompt in read_jsonl(file, Prompt) if prompt.split == split]
        if not found:
            raise InputError(
                f"{file}: holds no {split} prompts; give more prompts, or set prompts.{split}"
                + (" or prompts.test_fraction" if split == "test" else "")
            )
        return found


def prepare_prompts(run: Run) -> dict[str, int]:
    """Read, deduplicate, split and length-check the configured prompts into prompts.jsonl; returns counts."""
    config = run.config.prompts
    read = _read(config)
    base, limit = run.base(), run.config.model.max_prompt_tokens
    limit = min(limit, base.context - run.config.sampling.max_new_tokens)
    kept, long = [], 0
    for prompt in read.prompts:
        count = len(base.prompt_ids(prompt))
        if count <= limit:
            kept.append(prompt)
        elif run.config.model.long_prompts == "drop":
            long += 1
        else:
            raise InputError(
                f"prompt {prompt.id} ({prompt.text[:40]!r}...): {count} tokens, more than the {limit} that fit "
                f"(model.max_prompt_tokens, and {base.context} of context less {run.config.sampling.max_new_tokens} "
                "for the response); shorten it, raise model.max_prompt_tokens, or set model.long_prompts = 'drop'"
            )
    for count, what in (
        (read.short, f"prompts of fewer than {config.min_characters} characters"),
        (read.long, f"prompts of more than {config.max_characters} characters"),
    ):
        if count:
            run.reporter.say(f"{count} {what} left out")
    for count, what in ((read.duplicates, "duplicate prompts"), (long, f"prompts longer than {limit} tokens")):
        if count:
            run.reporter.warn(f"{count} {what} dropped")
    fractions = {"validation": config.validation_fraction, "test": config.test_fraction}
    fractions = {"train": 1 - sum(fractions.values()), **fractions}
    prompts = split_prompts(tuple(kept), fractions, seed=0)
    for split in ("train", "test"):
        if not any(prompt.split == split for prompt in prompts):
            raise InputError(
                f"{config.train or config.path}: leaves no {split} prompts of {len(prompts)}; "
                f"give more prompts, or change prompts.{split if config.train else 'test_fraction'}"
            )
    write_jsonl(run.folder.file("prompts.jsonl"), prompts)
    return {
        "duplicates": read.duplicates,
        "too_long": long,
        "too_few_characters": read.short,
        "too_many_characters": read.long,
        "prompts": len(prompts),
    }


def _read(config: PromptsConfig) -> PromptFile:
    import dataclasses

    form = PromptForm(config.field, config.template, config.min_characters, config.max_characters)

    def one(name: str) -> PromptFile:
        return read_prompts(demo.path(name) if name.startswith("demo/") else Path(name).expanduser(), form)

    if config.train is None:
        if config.path is None:
            raise InputError("prompts.path: is not set; name a file of prompts, or demo/prompts")
        return one(config.path)
    found: list[Prompt] = []
    seen: set[str] = set()
    duplicates = short = long = 0
    for split in ("test", "validation", "train"):
        name = getattr(config, split)
        if name is None:
            continue
        file = one(name)
        duplicates, short, long = duplicates + file.duplicates, short + file.short, long + file.long
        for prompt in file.prompts:
            key = content_key(prompt)
            # A prompt in two files stays where it is needed most: a test prompt is never trained on.
            if key in seen:
                duplicates += 1
                continue
            seen.add(key)
            found.append(dataclasses.replace(prompt, split=split))
    return PromptFile(tuple(found), duplicates, short, long)
