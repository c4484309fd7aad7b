"""The configuration of what scores a response: reward models, classifiers, rules, functions, remote endpoints.

Every kind with an example: docs/rewards.md.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from humanward.section import Section

Label = str | int
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class ClassifierOptions(Section):
    """How a ready-made classifier reads texts; the same keys for the reward, the judge and the gold score."""

    tokenizer: str | None = Field(None, description="folder or hub id of another tokenizer; None: the classifier's own")
    text: Literal["response", "prompt+response"] = "response"
    template: Literal["plain", "pair", "chat"] = Field(
        "plain",
        description="plain: one text, prompt and response with a line break between; pair: two segments; chat: turns "
        "through the chat template of the classifier's tokenizer",
    )
    max_tokens: int | None = Field(None, ge=2, description="longer texts are truncated; None: the classifier's limit")
    truncation: Literal["right", "left"] = Field("right", description="the side on which they lose their tokens")
    batch_size: int = Field(64, ge=1, description="texts in one forward; changes memory, not the scores")
    dtype: Literal["float32", "bfloat16", "auto"] = Field("float32", description="of the classifier's weights")
    device: str | None = Field(None, description="auto, cpu, cuda, cuda:1 ...; None: model.device")

    @model_validator(mode="after")
    def _pair(self) -> ClassifierOptions:
        if self.template == "pair" and self.text == "response":
            raise ValueError("template='pair' needs a prompt beside the response; set text = 'prompt+response'")
        return self


class _Source(Section):
    """What every one of the combined sources has."""

    name: str = Field("", description="in metrics and report; empty: its kind")
    weight: float = Field(1.0, description="factor of its score in the sum; below 0 it is a penalty")
    anchor: bool = Field(True, description="shift and scale to mean 0, standard deviation 1 on the reference first")

    @field_validator("name")
    @classmethod
    def _name(cls, name: str) -> str:
        if name and not NAME.fullmatch(name):
            raise ValueError("is no name of letters, digits, '_', '.' and '-'; metrics are called by it")
        return name

    @field_validator("weight")
    @classmethod
    def _weight(cls, weight: float) -> float:
        if weight == 0:
            raise ValueError("a source of weight 0 changes nothing; leave it out")
        return weight


class TrainedSource(_Source):
    """The run's own reward model, or ensemble of them, as ``reward.model`` and ``reward.ensemble`` say."""

    kind: Literal["trained"]


class ClassifierSource(_Source, ClassifierOptions):
    """A ready-made classifier."""

    kind: Literal["classifier"]
    classifier: str = Field(min_length=1)
    revision: str | None = None
    label: Label | None = Field(None, description="name or index; None: the only output of a model that has one")
    output: Literal["logit", "probability"] = "logit"


class LengthSource(_Source):
    """The length n of a response: n itself, or with a target -|n - target| / target, which is 0 at best."""

    kind: Literal["length"]
    target: int | None = Field(None, ge=1)
    per: Literal["word", "token", "character"] = Field(
        "word", description="words are separated by white space; tokens are the policy's, without the end token"
    )


class RegexSource(_Source):
    """How often a regular expression is found in a response (count), or whether it is: 1 or 0 (presence)."""

    kind: Literal["regex"]
    pattern: str = Field(min_length=1)
    measure: Literal["count", "presence"] = "count"
    ignore_case: bool = True

    @field_validator("pattern")
    @classmethod
    def _pattern(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"is not a regular expression ({error}); see the syntax of Python's re") from None
        return pattern


class WordsSource(_Source):
    """How many words of a list a response holds (count), or whether it holds one: 1 or 0 (presence)."""

    kind: Literal["words"]
    words: tuple[str, ...] = ()
    path: str | None = Field(None, description="a file with one word or phrase a line")
    measure: Literal["count", "presence"] = "count"
    ignore_case: bool = True

    @model_validator(mode="after")
    def _one_list(self) -> WordsSource:
        if bool(self.words) == (self.path is not None):
            raise ValueError("words, path: give exactly one of the two, a list of words or a file with one a line")
        if any(not word.strip() for word in self.words):
            raise ValueError("words holds an empty word; drop it")
        return self


class FunctionSource(_Source):
    """A Python function of yours: (prompts: list[str], responses: list[str]) -> list[float]."""

    kind: Literal["function"]
    function: str = Field(description="module:function; the module is imported, so its code runs")

    @field_validator("function")
    @classmethod
    def _function(cls, function: str) -> str:
        if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", function):
            raise ValueError("is not of the form module:function, such as my_rewards:politeness; write it so")
        return function


class GoldSource(_Source):
    """What simulated annotators follow (``feedback.gold`` and its options): to watch a run by, in studies."""

    kind: Literal["gold"]


class HttpSource(_Source):
    """A remote endpoint that scores batches of responses by JSON over HTTP."""

    kind: Literal["http"]
    url: str
    format: Literal["scores", "classification"] = Field(
        "scores", description="scores: our own request and answer; classification: [{label, score}] for each text"
    )
    label: str | None = Field(None, description="classification: the label whose score is the reward")
    text: Literal["response", "prompt+response"] = Field("response", description="classification: what it is sent")
    batch_size: int = Field(16, ge=1, description="responses in a request")
    timeout: float = Field(30.0, gt=0, description="seconds without an answer before a request is given up")
    retries: int = Field(4, ge=0, description="further attempts after a failure that may pass by itself")
    backoff: float = Field(1.0, ge=0, description="seconds before the first of them; doubles each time, 60 at most")
    token_env: str | None = Field(
        None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="environment variable that holds a bearer token"
    )

    @field_validator("url")
    @classmethod
    def _url(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("is no http or https address; write one such as https://scores.example.org/score")
        if parts.username or parts.password:
            raise ValueError("holds a user or password, which the run's files would keep; use token_env")
        return url

    @model_validator(mode="after")
    def _label(self) -> HttpSource:
        if (self.format == "classification") != (self.label is not None):
            raise ValueError("label: format='classification' needs it and format='scores' has none; mend one of them")
        return self


SourceConfig = Annotated[
    TrainedSource
    | ClassifierSource
    | LengthSource
    | RegexSource
    | WordsSource
    | FunctionSource
    | HttpSource
    | GoldSource,
    Field(discriminator="kind"),
]
KINDS: dict[str, type[_Source]] = {
    "trained": TrainedSource,
    "classifier": ClassifierSource,
    "length": LengthSource,
    "regex": RegexSource,
    "words": WordsSource,
    "function": FunctionSource,
    "http": HttpSource,
    "gold": GoldSource,
}


class RewardConfig(Section):
    """What scores a response: a reward model trained on the preferences, a ready-made classifier, or several sources.

    ``text`` and ``max_tokens`` are the same as in ``classifier_options``; either place will do.
    """

    source: Literal["trained", "classifier", "combined"] = "trained"
    classifier: str = "demo/detector"
    classifier_revision: str | None = None
    label: Label = Field("nothate", description="the label whose score is the reward: its name or index")
    output: Literal["logit", "probability"] = "logit"
    text: Literal["response", "prompt+response"] = "response"
    max_tokens: int | None = Field(None, ge=2, description="longer texts are truncated; None: the classifier's limit")
    classifier_options: ClassifierOptions = ClassifierOptions()
    sources: tuple[SourceConfig, ...] = Field((), description="with source = 'combined': what is summed, by weight")
    model: str | tuple[str, ...] | None = Field(
        None, description="a ready-trained reward model (folder), or a list of them: an ensemble"
    )
    ensemble: int = Field(1, ge=1, le=16, description="reward models to train, alike but for their seeds")
    ensemble_score: Literal["mean", "min", "mean-std"] = Field(
        "mean", description="the ensemble's score of a response; mean-std: mean - ensemble_lambda * deviation"
    )
    ensemble_lambda: float = Field(1.0, ge=0, description="price of disagreement, for mean-std")
    train: Literal["adapter", "full"] = Field(
        "adapter", description="full: all weights of a copy of the base, for the reward model alone"
    )
    criteria: dict[str, float] = Field(
        {}, description="a head for each criterion with its weight in the score; empty: one head for all pairs"
    )
    ties: Literal["half", "drop", "davidson", "rao-kupper"] = Field(
        "half", description="what a tie teaches: a target of 1/2, nothing, or an outcome with a probability of its own"
    )
    tie_parameter: float | None = Field(
        None, gt=0, description="Davidson's nu, or the margin of rao-kupper under which answers tie; None: learned"
    )
    margin: float = Field(0.0, ge=0, description="score difference asked of a pair for each unit of its margin")
    label_smoothing: float = Field(0.0, ge=0, lt=0.5, description="share of the strict pairs taken to be the wrong way")
    checkpoint_seconds: float = Field(
        60.0, ge=0, description="training writes where it is this often, and goes on from there; 0: after every step"
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

    @property
    def uses_trained(self) -> bool:
        """Whether a reward model on the shared base scores, alone or among others."""
        return self.source == "trained" or any(source.kind == "trained" for source in self.sources)

    @property
    def trains(self) -> bool:
        """Whether the run trains a reward model itself."""
        return self.uses_trained and self.model is None

    @property
    def models(self) -> tuple[str, ...]:
        """The folders of ready-trained reward models."""
        return (self.model,) if isinstance(self.model, str) else self.model or ()

    def described(self, rankings: str) -> str:
        """What reports call this reward; ``rankings`` says what a reward model is trained on."""
        if self.source == "classifier":
            return self.classifier
        if self.source == "combined":
            return " + ".join(f"{source.weight:g} {source.name or source.kind}" for source in self.sources)
        if self.model is None and self.ensemble == 1:
            return f"reward model trained on {rankings}"
        if self.model is None:
            return f"{self.ensemble_score} of {self.ensemble} reward models trained on {rankings}"
        return self.models[0] if len(self.models) == 1 else f"{self.ensemble_score} of {', '.join(self.models)}"

    @field_validator("criteria")
    @classmethod
    def _criteria(cls, criteria: dict[str, float]) -> dict[str, float]:
        for name, weight in criteria.items():
            if not NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no name of letters, digits, '_', '.' and '-'; rankings name criteria so")
            if weight == 0 or not math.isfinite(weight):
                raise ValueError(f"{name} = {weight}: a criterion of that weight decides nothing; leave it out")
        return criteria

    @model_validator(mode="after")
    def _ties(self) -> RewardConfig:
        if self.tie_parameter is not None and self.ties not in ("davidson", "rao-kupper"):
            raise ValueError(
                f"tie_parameter={self.tie_parameter}: ties = {self.ties!r} has none; set ties = 'davidson' or "
                "'rao-kupper'"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _one_reading(cls, values: Any) -> Any:
        """``text`` and ``max_tokens`` stand in both places, whichever they were given in."""
        if not isinstance(values, dict) or not isinstance(values.get("classifier_options", {}), dict):
            return values
        filled, options = dict(values), dict(values.get("classifier_options", {}))
        for key in ("text", "max_tokens"):
            if key in filled and key in options and filled[key] != options[key]:
                raise ValueError(f"{key} = {filled[key]!r} and classifier_options.{key} = {options[key]!r}: drop one")
            for ours, theirs in ((filled, options), (options, filled)):
                if key in theirs:
                    ours.setdefault(key, theirs[key])
        return {**filled, "classifier_options": options} if options else filled

    @model_validator(mode="after")
    def _sources(self) -> RewardConfig:
        if self.source != "combined" and self.sources:
            raise ValueError(f"sources: source = {self.source!r} has none; set reward.source = 'combined'")
        if self.source == "combined" and not self.sources:
            raise ValueError("source='combined' needs sources; write a [[reward.sources]] table for each")
        names = [source.name or source.kind for source in self.sources]
        if repeated := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"sources: two are named {repeated[0]!r}; give each a name of its own")
        if sum(source.kind == "trained" for source in self.sources) > 1:
            raise ValueError("sources: two are of kind 'trained', and a run has one; drop one, or set ensemble")
        if self.model is not None and not self.models:
            raise ValueError("model = []: names no reward model; name a folder, or leave it out")
        if len(set(self.models)) < len(self.models):
            raise ValueError("model names a folder twice; an ensemble is of different reward models")
        if self.model is not None and self.ensemble > 1:
            raise ValueError(f"ensemble={self.ensemble} trains reward models and model names ready ones; drop one")
        return self
