"""The configuration of a run: strict, frozen pydantic models read from TOML.

Unknown keys fail, every default is stated here with its unit, and errors name the key, the value, the rule
and the remedy. Nothing here imports torch, so that a wrong file is refused within a second.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal

import tomli_w
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from humanward.algorithm_config import (
    ALGORITHM_SECTIONS,
    DEFAULTS_OF,
    OFF_POLICY,
    ON_POLICY,
    Algorithm,
    BestOfNConfig,
    OfflineConfig,
    PPOConfig,
    listed,
    options_of,
)
from humanward.errors import InputError
from humanward.monitor_config import ConstraintConfig, MonitorsConfig
from humanward.reward_config import KINDS, ClassifierOptions, Label, RewardConfig
from humanward.round_config import RoundsConfig
from humanward.section import Section


class ModelConfig(Section):
    """The policy to align. ``policy`` is a hub id, a local folder or ``demo/policy``."""

    policy: str = Field("demo/policy", min_length=1)
    revision: str | None = None
    adapter: str | None = Field(None, description="SFT adapter to start from; it becomes the reference")
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    device: str = "auto"
    quantization: Literal["none", "nf4"] = Field(
        "none", description="nf4: the frozen base in 4 bits with double quantisation (QLoRA); extra qlora"
    )
    train: Literal["adapter", "full"] = Field(
        "adapter", description="full: all of the policy's weights; the frozen base beside it stays the reference"
    )
    gradient_checkpointing: bool = Field(
        False, description="compute activations again in the backward pass: less memory, about a third more time"
    )
    memory_check: bool = Field(
        True, description="refuse what the predicted peak memory says cannot fit, before anything is loaded"
    )
    trust_remote_code: bool = False
    system_prompt: str | None = Field(None, description="put before every prompt that has no system turn")
    max_prompt_tokens: int = Field(256, ge=1, description="longer prompts are refused, or dropped and counted")
    long_prompts: Literal["refuse", "drop"] = "refuse"

    @model_validator(mode="after")
    def _trainable(self) -> ModelConfig:
        if self.train == "full" and self.quantization != "none":
            raise ValueError(
                f"quantization={self.quantization!r} and train='full': 4-bit weights cannot be trained themselves; "
                "set model.train = 'adapter' (QLoRA), or model.quantization = 'none'"
            )
        return self


class LoraConfig(Section):
    """Adapters on the frozen base (PEFT). Dropout stays off: PPO compares log-probabilities."""

    rank: int = Field(16, ge=1)
    alpha: float = Field(32.0, gt=0)
    target_modules: str | tuple[str, ...] = "all-linear"
    variant: Literal["lora", "dora"] = Field("lora", description="dora learns each column's magnitude by itself")
    rslora: bool = Field(False, description="scale by alpha / sqrt(rank) instead of alpha / rank")
    dtype: Literal["float32", "base"] = Field(
        "float32", description="of the adapters' weights; base: as the frozen base, half the memory and coarser steps"
    )


class PromptsConfig(Section):
    """Where prompts come from: one file that is split by a hash of each prompt, or one file for each split."""

    path: str | None = "demo/prompts"
    train: str | None = None
    validation: str | None = None
    test: str | None = None
    validation_fraction: float = Field(0.1, ge=0, lt=1)
    test_fraction: float = Field(0.25, ge=0, lt=1)
    field: str | None = Field(
        None, min_length=1, description="the field or column that holds the text; None: prompt, text or messages"
    )
    template: str | None = Field(
        None, description="the prompt as the model reads it; {NAME} stands for the field or column of that name"
    )
    min_characters: int = Field(0, ge=0, description="rows with a shorter text are left out and counted")
    max_characters: int | None = Field(
        None, ge=1, description="so are those with a longer one; both before the template"
    )

    @model_validator(mode="after")
    def _template(self) -> PromptsConfig:
        if self.template is not None and self.field is None:
            raise ValueError("template is set without field; name the field or column that it is built around")
        if self.template is not None and f"{{{self.field}}}" not in self.template:
            raise ValueError(f"template={self.template!r} does not hold {{{self.field}}}; say where the text goes")
        if self.max_characters is not None and self.min_characters > self.max_characters:
            raise ValueError(
                f"min_characters={self.min_characters} is more than max_characters={self.max_characters}; lower it"
            )
        return self

    @model_validator(mode="after")
    def _one_way(self) -> PromptsConfig:
        if self.train is not None and self.test is None:
            raise ValueError("train is set without test; name both files, or use path alone")
        if self.validation_fraction + self.test_fraction >= 1:
            raise ValueError("validation_fraction + test_fraction leaves no prompts to train on; lower them")
        return self


class SamplingConfig(Section):
    """How responses are drawn. The same settings serve rollouts, log-probabilities and evaluation."""

    max_new_tokens: int = Field(48, ge=1, description="tokens, the end-of-turn token included")
    temperature: float = Field(1.0, gt=0)
    top_k: int = Field(0, ge=0, description="0 keeps all tokens; for the sample and evaluate stages only")
    top_p: float = Field(1.0, gt=0, le=1, description="1 keeps all tokens; for the sample and evaluate stages only")
    min_p: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="drop tokens below this share of the most probable one; 0 keeps all; for the same stages",
    )
    batch_size: int = Field(128, ge=1, description="responses sampled at once")
    stop: tuple[str, ...] = Field((), description="texts that end a response, besides the model's own end tokens")

    def unfiltered(self) -> SamplingConfig:
        """The same, drawing from the model's whole distribution, which is the one that training learns from."""
        return self.model_copy(update={"top_k": 0, "top_p": 1.0, "min_p": 0.0})

    @field_validator("stop")
    @classmethod
    def _stop(cls, stop: tuple[str, ...]) -> tuple[str, ...]:
        if "" in stop:
            raise ValueError("holds an empty text, which every response contains; drop it")
        return stop


class FeedbackConfig(Section):
    """Where rankings come from."""

    source: Literal["simulated", "terminal", "collect", "rankings", "preferences", "ratings", "none"] = "simulated"
    db: str | None = Field(
        None, description="for source = 'collect': the store's URL; None: feedback.db in the run directory"
    )
    project: str | None = Field(None, description="for source = 'collect': the project in the store; None: 'run'")
    combine: Literal["all", "weighted", "consensus"] = Field(
        "all",
        description="several annotators of a prompt: all pairs alike, by reliability, or the order they agree on best",
    )
    path: str | None = Field(
        None, description="file (or run directory) of rankings, preferences or ratings, for those sources"
    )
    format: str = Field("auto", description="format of that file; `humanward feedback import --help` lists them")
    completions_per_prompt: int = Field(4, ge=2, le=16)
    prompts: int = Field(300, ge=2, description="prompts to sample completions for, at most")
    gold: str = Field("demo/detector", description="classifier that simulated annotators follow, with noise")
    gold_label: Label = Field("nothate", description="its name or index")
    gold_options: ClassifierOptions = ClassifierOptions()
    gold_output: Literal["logit", "probability"] = Field(
        "probability",
        description="a probability tells harmless answers hardly apart, as people do; a logit always does",
    )
    annotators: int = Field(3, ge=1, description="simulated annotators")
    overlap: int = Field(1, ge=1, description="how many of them rank each prompt")
    short_words: int = Field(3, ge=0, description="simulated annotators dislike answers of fewer words than this")
    short_penalty: float = Field(0.2, ge=0, description="how much, in units of the gold score")
    noise: float = Field(
        0.1, ge=0, description="standard deviation of an annotator's error, in units of the gold score"
    )
    tie_width: float = Field(0.1, ge=0, description="answers closer than this, as perceived, share a tier")

    @model_validator(mode="after")
    def _path(self) -> FeedbackConfig:
        if self.overlap > self.annotators:
            raise ValueError(f"overlap={self.overlap} is more than annotators={self.annotators}; lower it")
        if self.source in ("rankings", "preferences") and self.path is None:
            raise ValueError(f"source = {self.source!r} needs path; name the file")
        return self


class EvaluationConfig(Section):
    """Before and after on prompts never trained on, judged by a classifier that was not the reward."""

    judge: str = "demo/judge"
    judge_revision: str | None = None
    judge_label: Label = Field("hate", description="the label whose probability is the toxicity: its name or index")
    judge_options: ClassifierOptions = ClassifierOptions()
    prompts: int = Field(300, ge=2, description="test prompts, at most")
    samples: int = Field(1, ge=1, description="responses a prompt and model; 25 for the RealToxicityPrompts protocol")


class RunConfig(Section):
    """Everything that decides a run's result."""

    seed: int = Field(0, ge=0)
    algorithm: Algorithm = "ppo"
    model: ModelConfig = ModelConfig()
    lora: LoraConfig = LoraConfig()
    prompts: PromptsConfig = PromptsConfig()
    sampling: SamplingConfig = SamplingConfig()
    feedback: FeedbackConfig = FeedbackConfig()
    reward: RewardConfig = RewardConfig()
    ppo: PPOConfig = PPOConfig()
    monitors: MonitorsConfig = MonitorsConfig()
    constraint: ConstraintConfig = ConstraintConfig()
    offline: OfflineConfig = OfflineConfig()
    best_of_n: BestOfNConfig = BestOfNConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    rounds: RoundsConfig = RoundsConfig()

    @model_validator(mode="before")
    @classmethod
    def _algorithm_defaults(cls, values: Any) -> Any:
        """Defaults that differ between algorithms, put where nothing was said."""
        if not isinstance(values, dict) or not isinstance(name := values.get("algorithm", "ppo"), str):
            return values
        filled = dict(values)
        for section, defaults in DEFAULTS_OF.get(name, {}).items():
            given = filled.get(section, {})
            if isinstance(given, dict):
                filled[section] = {**defaults, **given}
        return filled

    @model_validator(mode="after")
    def _consistent(self) -> RunConfig:
        used = options_of(self.algorithm)
        for section in ALGORITHM_SECTIONS:
            given = getattr(self, section)
            if unused := sorted(given.model_fields_set - used.get(section, frozenset())):
                raise ValueError(
                    f"{section}.{unused[0]} = {getattr(given, unused[0])!r}: {self.algorithm} does not use it; "
                    f"it uses {'; '.join(listed(used))}"
                )
        self._watched_rewards()
        longest = self.model.max_prompt_tokens + self.sampling.max_new_tokens
        if self.algorithm in ON_POLICY and self.ppo.micro_batch_tokens < longest:
            raise ValueError(
                f"ppo.micro_batch_tokens={self.ppo.micro_batch_tokens} is less than one sequence may have: {longest}, "
                f"model.max_prompt_tokens + sampling.max_new_tokens; raise it to {longest} or more"
            )
        if self.algorithm == "ppo" and self.ppo.critic_warmup_steps >= self.ppo.steps:
            raise ValueError(
                f"ppo.critic_warmup_steps={self.ppo.critic_warmup_steps} leaves none of ppo.steps={self.ppo.steps} for "
                "the policy; lower it"
            )
        if self.ppo.critic_start == "reward" and self.reward.source != "trained":
            raise ValueError(
                f"ppo.critic_start = 'reward': reward.source = {self.reward.source!r} has no adapter on this base to "
                "start from; set ppo.critic_start = 'zero'"
            )
        if self.reward.train == "full" and self.reward.trains:
            if self.model.quantization != "none":
                raise ValueError(
                    f"reward.train = 'full': model.quantization = {self.model.quantization!r} has weights that cannot "
                    "be trained themselves; set reward.train = 'adapter' (QLoRA)"
                )
            if self.ppo.critic_start == "reward":
                raise ValueError(
                    "ppo.critic_start = 'reward': reward.train = 'full' leaves no adapter on this base to start from; "
                    "set ppo.critic_start = 'zero'"
                )
        if self.algorithm in ("rloo", "grpo") and self.ppo.samples_per_prompt < 2:
            raise ValueError(
                f"ppo.samples_per_prompt = {self.ppo.samples_per_prompt}: {self.algorithm} compares the answers to one "
                "prompt; set 2 or more"
            )
        if self.algorithm in OFF_POLICY and self.feedback.source == "none":
            raise ValueError(f"algorithm = {self.algorithm!r} learns from preferences; set feedback.source")
        trains_a_reward = self.algorithm not in OFF_POLICY and self.reward.trains
        if trains_a_reward and self.feedback.source == "none":
            learner = "source = 'trained'" if self.reward.source == "trained" else "sources of kind 'trained'"
            raise ValueError(f"reward.{learner} needs rankings; set feedback.source, or reward.source = 'classifier'")
        if self.feedback.source == "ratings" and (trains_a_reward or self.algorithm in ("dpo", "ipo", "orpo")):
            learner = "a trained reward model" if trains_a_reward else self.algorithm
            raise ValueError(
                f"feedback.source = 'ratings': {learner} learns from pairs, and ratings are of single answers; "
                "set algorithm = 'kto' or 'sft', or give rankings"
            )
        return self

    def _watched_rewards(self) -> None:
        """ValueError where monitors or constraint name the reward that the policy learns from."""
        for section, given in (("monitors", self.monitors), ("constraint", self.constraint)):
            if any(source.kind == "trained" for source in given.sources):
                raise ValueError(
                    f"{section}.sources: kind = 'trained' is the reward that the policy learns from; name another "
                    "reward: a classifier, a rule, a function, an endpoint"
                )

    def to_toml(self) -> str:
        """The resolved configuration as TOML, without unset keys (None) and options that the algorithm does not use."""
        values = self.model_dump(exclude_none=True, mode="json")
        used = options_of(self.algorithm)
        for section in ALGORITHM_SECTIONS:
            values[section] = {key: value for key, value in values[section].items() if key in used.get(section, ())}
            if not values[section]:
                del values[section]
        return tomli_w.dumps(values)


def load_config(path: Path, overrides: tuple[str, ...] = ()) -> RunConfig:
    """The configuration in a TOML file, with ``section.key=value`` overrides applied."""
    return parse_config(read_toml(path), overrides, str(path))


def read_toml(path: Path) -> dict[str, Any]:
    """The values of a TOML configuration file, unchecked; InputError where it is not readable TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such configuration file; see examples/ for ones to start from") from None
    except (IsADirectoryError, PermissionError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable TOML file ({type(error).__name__}); name a UTF-8 TOML file") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not TOML: {error}") from None


def parse_config(values: dict[str, Any], overrides: tuple[str, ...] = (), where: str = "configuration") -> RunConfig:
    """``values`` with overrides as a RunConfig; errors name the key, its value, the rule and the remedy."""
    override(values, overrides)
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{where}: {_first_problem(error)}") from None


def override(values: dict[str, Any], overrides: tuple[str, ...]) -> None:
    """Put ``section.key=value`` texts into ``values``.

    A value is read as TOML where it is TOML (numbers, booleans, quoted text, lists) and as text otherwise.
    """
    for one in overrides:
        key, equals, text = one.partition("=")
        if not equals:
            raise InputError(f"--set {one}: not of the form section.key=value")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        target, *path = values, *key.split(".")
        for part in path[:-1]:
            target = target.setdefault(part, {})
            if not isinstance(target, dict):
                raise InputError(f"--set {one}: {part} is a value, not a section")
        target[path[-1]] = value


def _first_problem(error: ValidationError) -> str:
    problems = error.errors()
    problem = problems[0]
    key = _key(problem["loc"])
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    if problem["type"] == "extra_forbidden":
        return f"unknown key {key} = {problem['input']!r}; {_remedy(problem['loc'])}{more}"
    if problem["type"] == "value_error":
        message = str(problem["ctx"]["error"])
        # A message such as "minibatch_size=6 does not divide ..." names its keys itself.
        # One of a section starts with the key's name, one of a single value needs it and the value before it.
        if key and not isinstance(problem["input"], dict | Section):
            return f"{key} = {problem['input']!r}: {message}{more}"
        return (f"{key}.{message}" if key else message) + more
    if problem["type"] in ("union_tag_not_found", "union_tag_invalid"):
        return f"{key} = {problem['input']!r}: needs a kind of {', '.join(KINDS)}; set kind{more}"
    if problem["type"] == "model_type":
        return f"{key} = {problem['input']!r}: {key} is a section, not a value; set one of its keys{more}"
    return f"{key} = {problem['input']!r}: {problem['msg'][0].lower()}{problem['msg'][1:]}{more}"


def _key(location: tuple[str | int, ...]) -> str:
    """Where a problem is, as it is written: reward.sources[0].weight."""
    key = ""
    for place, part in enumerate(location):
        if isinstance(part, int):
            key += f"[{part}]"
        elif not (_is_kind(location, place) or part in ("str", "int") or part.startswith("tuple[")):
            key += f".{part}" if key else part
    return key


def _is_kind(location: tuple[str | int, ...], place: int) -> bool:
    """Whether a part names the kind of a source, which pydantic puts behind its number in the list."""
    return place > 0 and isinstance(location[place - 1], int) and location[place] in KINDS


def _remedy(location: tuple[str | int, ...]) -> str:
    section: type[BaseModel] = RunConfig
    for place, part in enumerate(location[:-1]):
        if _is_kind(location, place):
            section = KINDS[str(part)]
        elif isinstance(part, str):
            annotation = section.model_fields[part].annotation
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                section = annotation
    import difflib

    names = list(section.model_fields)
    near = difflib.get_close_matches(str(location[-1]), names, n=1)
    return f"did you mean {near[0]}?" if near else f"the keys here are {', '.join(names)}"
