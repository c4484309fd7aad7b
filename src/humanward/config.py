"""The configuration of a run: strict, frozen pydantic models read from TOML.

Unknown keys fail, every default is stated here with its unit, and errors name the key, the value, the rule
and the remedy. Nothing here imports torch, so that a wrong file is refused within a second.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from humanward.errors import InputError


class Section(BaseModel):
    """Base of all sections: unknown keys are errors and values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelConfig(Section):
    """The policy to align. ``policy`` is a hub id, a local folder or ``demo/policy``."""

    policy: str = Field("demo/policy", min_length=1)
    revision: str | None = None
    adapter: str | None = Field(None, description="SFT adapter to start from; it becomes the reference")
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    device: str = "auto"
    trust_remote_code: bool = False
    system_prompt: str | None = Field(None, description="put before every prompt that has no system turn")
    max_prompt_tokens: int = Field(256, ge=1, description="longer prompts are refused, or dropped and counted")
    long_prompts: Literal["refuse", "drop"] = "refuse"


class LoraConfig(Section):
    """Adapters on the frozen base (PEFT). Dropout stays off: PPO compares log-probabilities."""

    rank: int = Field(16, ge=1)
    alpha: float = Field(32.0, gt=0)
    target_modules: str | tuple[str, ...] = "all-linear"


class PromptsConfig(Section):
    """Where prompts come from: one file that is split by a hash of each prompt, or one file for each split."""

    path: str | None = "demo/prompts"
    train: str | None = None
    validation: str | None = None
    test: str | None = None
    validation_fraction: float = Field(0.1, ge=0, lt=1)
    test_fraction: float = Field(0.25, ge=0, lt=1)

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
    batch_size: int = Field(128, ge=1)


class FeedbackConfig(Section):
    """Where rankings come from."""

    source: Literal["simulated", "terminal", "rankings", "preferences", "none"] = "simulated"
    path: str | None = Field(
        None, description="file (or run directory) of rankings or preferences, for those two sources"
    )
    format: str = Field("auto", description="format of that file; `humanward feedback import --help` lists them")
    completions_per_prompt: int = Field(4, ge=2, le=16)
    prompts: int = Field(300, ge=2, description="prompts to sample completions for, at most")
    gold: str = Field("demo/detector", description="classifier that simulated annotators follow, with noise")
    gold_label: str = "nothate"
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


class RewardConfig(Section):
    """What scores a response: a reward model trained on the preferences, or a ready-made classifier."""

    source: Literal["trained", "classifier"] = "trained"
    classifier: str = "demo/detector"
    classifier_revision: str | None = None
    label: str | int = Field("nothate", description="the label whose score is the reward: its name or index")
    output: Literal["logit", "probability"] = "logit"
    text: Literal["response", "prompt+response"] = "response"
    max_tokens: int | None = Field(
        None, ge=2, description="longer texts are truncated on the right; None: the classifier's limit"
    )
    model: str | None = Field(
        None, description="a ready-trained reward model (folder with adapter and head) to use as it is"
    )
    epochs: int = Field(3, ge=1)
    batch_size: int = Field(16, ge=1, description="prompts in a minibatch, each with all its completions and pairs")
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    max_tokens_trained: int = Field(512, ge=8, description="prompt + response; longer prompts lose their beginning")
    rank: int = Field(16, ge=1)
    validation_fraction: float = Field(
        0.25, gt=0, lt=1, description="share of the prompts held out to measure accuracy"
    )


class PPOConfig(Section):
    """Proximal policy optimisation. Sources of the defaults: docs/ppo.md."""

    steps: int = Field(40, ge=1, description="rollouts, each learnt from `epochs` times")
    rollout_size: int = Field(64, ge=2, description="episodes a step")
    minibatch_size: int = Field(32, ge=1, description="episodes an optimizer step")
    micro_batch_size: int = Field(32, ge=1, description="episodes in one forward; changes memory, not the result")
    epochs: int = Field(4, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    critic_learning_rate: float = Field(1e-2, gt=0)
    schedule: Literal["linear", "constant"] = "linear"
    adam_epsilon: float = Field(1e-5, gt=0)
    max_gradient_norm: float = Field(1.0, gt=0)
    gamma: float = Field(1.0, gt=0, le=1)
    gae_lambda: float = Field(0.95, ge=0, le=1)
    clip_range: float = Field(0.2, gt=0)
    value_clip_range: float = Field(0.2, gt=0)
    value_coef: float = Field(0.1, ge=0)
    whiten_advantages: bool = True
    whiten_rewards: bool = False
    critic_warmup_steps: int = Field(
        2, ge=0, description="first steps that train the value head alone; the policy rests"
    )
    kl_controller: Literal["fixed", "adaptive"] = "adaptive"
    kl_coef: float = Field(0.05, ge=0)
    kl_target: float = Field(6.0, gt=0, description="nats a sequence, for the adaptive controller")
    kl_horizon: int = Field(10_000, ge=1, description="episodes")
    kl_budget: float = Field(
        8.0, gt=0, description="nats a sequence; the report warns above it and training stops early"
    )
    target_update_kl: float = Field(0.02, gt=0, description="nats a token between old and new policy")
    missing_eos_penalty: float = Field(
        1.0, ge=0, description="subtracted from the score of a response that was cut off"
    )
    score_clip: float | None = Field(None, gt=0, description="scores are clipped to +- this, after anchoring")
    anchor_scores: bool = Field(
        True, description="shift and scale scores to mean 0, standard deviation 1 on the reference"
    )

    @model_validator(mode="after")
    def _sizes(self) -> PPOConfig:
        for small, large in (("minibatch_size", "rollout_size"), ("micro_batch_size", "minibatch_size")):
            a, b = getattr(self, small), getattr(self, large)
            if b % a:
                raise ValueError(f"{small}={a} does not divide {large}={b}; choose a divisor of {b}")
        if self.critic_warmup_steps >= self.steps:
            raise ValueError(
                f"critic_warmup_steps={self.critic_warmup_steps} leaves none of steps={self.steps} for the policy; "
                "lower it"
            )
        return self


class EvaluationConfig(Section):
    """Before and after on prompts never trained on, judged by a classifier that was not the reward."""

    judge: str = "demo/judge"
    judge_revision: str | None = None
    judge_label: str | int = "hate"
    prompts: int = Field(300, ge=2, description="test prompts, at most")
    samples: int = Field(1, ge=1, description="responses a prompt and model; 25 for the RealToxicityPrompts protocol")


class RunConfig(Section):
    """Everything that decides a run's result."""

    seed: int = Field(0, ge=0)
    model: ModelConfig = ModelConfig()
    lora: LoraConfig = LoraConfig()
    prompts: PromptsConfig = PromptsConfig()
    sampling: SamplingConfig = SamplingConfig()
    feedback: FeedbackConfig = FeedbackConfig()
    reward: RewardConfig = RewardConfig()
    ppo: PPOConfig = PPOConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _consistent(self) -> RunConfig:
        if self.reward.source == "trained" and self.reward.model is None and self.feedback.source == "none":
            raise ValueError(
                "reward.source = 'trained' needs rankings; set feedback.source, or reward.source = 'classifier'"
            )
        return self

    def to_toml(self) -> str:
        """The resolved configuration as TOML; keys whose value is unset (None) are left out."""
        return tomli_w.dumps(self.model_dump(exclude_none=True, mode="json"))


def load_config(path: Path, overrides: tuple[str, ...] = ()) -> RunConfig:
    """The configuration in a TOML file, with ``section.key=value`` overrides applied.

    A value is read as TOML where it is TOML (numbers, booleans, quoted text, lists) and as text otherwise.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such configuration file; see examples/ for ones to start from") from None
    except (IsADirectoryError, PermissionError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a readable TOML file ({type(error).__name__}); name a UTF-8 TOML file") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not TOML: {error}") from None
    return parse_config(values, overrides, str(path))


def parse_config(values: dict[str, Any], overrides: tuple[str, ...] = (), where: str = "configuration") -> RunConfig:
    """``values`` with overrides as a RunConfig; errors name the key, its value, the rule and the remedy."""
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise InputError(f"--set {override}: not of the form section.key=value")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        target, *path = values, *key.split(".")
        for part in path[:-1]:
            target = target.setdefault(part, {})
            if not isinstance(target, dict):
                raise InputError(f"--set {override}: {part} is a value, not a section")
        target[path[-1]] = value
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{where}: {_first_problem(error)}") from None


def _first_problem(error: ValidationError) -> str:
    problems = error.errors()
    problem = problems[0]
    key = ".".join(str(part) for part in problem["loc"])
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    if problem["type"] == "extra_forbidden":
        return f"unknown key {key} = {problem['input']!r}; {_remedy(problem['loc'])}{more}"
    if problem["type"] == "value_error":
        message = str(problem["ctx"]["error"])
        # A message such as "minibatch_size=6 does not divide ..." names its keys itself.
        return (f"{key}.{message}" if key else message) + more
    if problem["type"] == "model_type":
        return f"{key} = {problem['input']!r}: {key} is a section, not a value; set one of its keys{more}"
    return f"{key} = {problem['input']!r}: {problem['msg'][0].lower()}{problem['msg'][1:]}{more}"


def _remedy(location: tuple[str | int, ...]) -> str:
    section: type[BaseModel] = RunConfig
    for part in location[:-1]:
        annotation = section.model_fields[str(part)].annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            section = annotation
    import difflib

    names = list(section.model_fields)
    near = difflib.get_close_matches(str(location[-1]), names, n=1)
    return f"did you mean {near[0]}?" if near else f"the keys here are {', '.join(names)}"
