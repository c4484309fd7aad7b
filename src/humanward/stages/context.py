"""What every stage is given: the run, the shared base (loaded once), and a place to report to."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from humanward import demo
from humanward.config import ClassifierOptions, PromptsConfig, RunConfig
from humanward.errors import InputError
from humanward.models.base import SharedBase
from humanward.models.loading import load_model
from humanward.models.provenance import identify
from humanward.progress import Reporter
from humanward.prompts import PromptFile, PromptForm, content_key, read_prompts, split_prompts
from humanward.records import Prompt, read_jsonl, write_jsonl
from humanward.reward.combined import CombinedReward
from humanward.reward.model import RewardEnsemble, RewardModel, load_reward_models
from humanward.reward.sources import Classifier, Gold
from humanward.run_dir import RunDir

(
    POLICY_SEED,
    REWARD_SEED,
    ROLLOUT_SEED,
    EVALUATION_SEED,
    SAMPLE_SEED,
    FRONTIER_SEED,
    CRITIC_SEED,
    MONITOR_SEED,
    REFERENCE_SEED,
) = range(9)
MEASURING = (EVALUATION_SEED, FRONTIER_SEED, MONITOR_SEED)
ROUND_STRIDE = 1_000_000_007


@dataclass
class Run:
    """One run in progress; ``profile``: whether the align stage records where its time goes."""

    folder: RunDir
    reporter: Reporter
    profile: bool = False
    _base: SharedBase | None = field(default=None, repr=False)
    _classifiers: dict[str, Classifier] = field(default_factory=dict, repr=False)
    _reward_models: RewardModel | RewardEnsemble | None = field(default=None, repr=False)
    _combined: CombinedReward | None = field(default=None, repr=False)
    _reference_samples: dict[int, tuple[list[Prompt], list[str]]] = field(default_factory=dict, repr=False)

    @property
    def config(self) -> RunConfig:
        """The run's resolved configuration."""
        return self.folder.config

    def seed(self, purpose: int) -> int:
        """A seed of its own for every purpose, so that no two stages share random numbers; nor do two rounds.

        What measures has the same numbers in every round, so that rounds are compared on equal ones.
        """
        number = 1 if purpose in MEASURING else self.config.rounds.number
        return self.config.seed * 1000 + purpose + (number - 1) * ROUND_STRIDE

    def base(self) -> SharedBase:
        """The policy's base, loaded at first use, with its ``policy`` role."""
        if self._base is None:
            model = self.config.model
            revision = self.folder.revision("policy", model.policy, model.revision)
            model = model.model_copy(update={"revision": revision})
            base = SharedBase(
                load_model(model),
                system_prompt=model.system_prompt,
                gradient_checkpointing=model.gradient_checkpointing,
            )
            room = base.context - self.config.sampling.max_new_tokens
            if room < 1:
                raise InputError(
                    f"sampling.max_new_tokens = {self.config.sampling.max_new_tokens}: leaves no room for a prompt in "
                    f"{base.name}'s context of {base.context} tokens; lower it"
                )
            if model.train == "full":
                base.add_whole_role("policy", model.adapter)
            if model.adapter is not None:
                base.start_from(model.adapter)
            elif model.train == "adapter":
                base.add_role("policy", self.config.lora, seed=self.seed(POLICY_SEED))
            if self.config.rounds.start is not None:
                base.replace_role("policy", Path(self.config.rounds.start))
            for line in base.notices:
                self.reporter.warn(line)
            self.folder.pin("policy", identify(model.policy, model.revision))
            if model.adapter is not None:
                self.folder.pin("adapter", identify(model.adapter))
            self._base = base
        return self._base

    @property
    def policy_folder(self) -> Path:
        """Where the trained policy lies: an adapter in PEFT's format, or after full fine-tuning a whole model."""
        return self.folder.file("adapter" if self.config.model.train == "adapter" else "model")

    def classifier(self, which: str) -> Classifier:
        """The ``reward``, ``gold`` or ``judge`` classifier of the configuration, loaded once."""
        reward, feedback, evaluation = self.config.reward, self.config.feedback, self.config.evaluation
        if which == "reward":
            options, revision = reward.classifier_options, reward.classifier_revision
            return self.load_classifier(which, reward.classifier, reward.label, options, reward.output, revision)
        if which == "gold":
            options, output = feedback.gold_options, feedback.gold_output
            return self.load_classifier(which, feedback.gold, feedback.gold_label, options, output)
        options, revision = evaluation.judge_options, evaluation.judge_revision
        return self.load_classifier(which, evaluation.judge, evaluation.judge_label, options, "probability", revision)

    def load_classifier(
        self,
        role: str,
        name: str,
        label: str | int | None,
        options: ClassifierOptions,
        output: str,
        revision: str | None = None,
    ) -> Classifier:
        """A classifier for ``role``, loaded at its first use; on the policy's device unless it has one of its own."""
        if role not in self._classifiers:
            reading = options.model_dump(include=set(ClassifierOptions.model_fields))
            reading["device"] = options.device or self.config.model.device
            revision = self.folder.revision(role, name, revision)
            self._classifiers[role] = Classifier(name, label, output=output, revision=revision, **reading)
            self.folder.pin(role, identify(name, revision))
        return self._classifiers[role]

    def truncated(self, since: dict[str, int] | None = None) -> dict[str, int]:
        """How many texts each loaded classifier cut in this process, by its role; ``since`` an earlier answer.

        Counts belong to the stage in which they arose: it records the difference from its beginning.
        """
        before = since or {}
        return {role: one.truncated - before.get(role, 0) for role, one in self._classifiers.items()}

    def gold(self) -> Gold:
        """What simulated annotators follow."""
        feedback = self.config.feedback
        return Gold(self.classifier("gold"), feedback.short_words, feedback.short_penalty)

    def reward_models(self) -> RewardModel | RewardEnsemble:
        """The trained reward model of this run, or their ensemble (or the ready ones of the configuration), as roles of
        the base."""
        if self._reward_models is None:
            reward = self.config.reward
            folders = [Path(name).expanduser() for name in reward.models] or [self.folder.file("reward_model")]
            if not reward.models and not folders[0].exists():
                raise InputError(
                    f"{self.folder.path}: has no trained reward model; "
                    f"run `humanward reward train --run {self.folder.path}`"
                )
            self._reward_models = load_reward_models(
                self.base(), folders, reward.ensemble_score, reward.ensemble_lambda
            )
        return self._reward_models

    def reward_model(self) -> RewardModel:
        """The run's reward model; of an ensemble the first member."""
        found = self.reward_models()
        return found.members[0] if isinstance(found, RewardEnsemble) else found

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
