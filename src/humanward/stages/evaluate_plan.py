"""What `humanward evaluate A B ...` is asked to do, checked before anything is loaded."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from humanward import demo
from humanward.config import ModelConfig, RunConfig, SamplingConfig
from humanward.errors import InputError
from humanward.evaluation.protocols.sets import KINDS, EvaluationSet, read_set
from humanward.models.adapters import CONFIG as ADAPTER_CONFIG
from humanward.models.adapters import refuse_no_adapter, trained_on
from humanward.models.loading import hub_is_unreachable, readable_errors, resolve
from humanward.models.provenance import identify
from humanward.run_dir import CONFIG, STAGES, open_run

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
BEFORE = ":before"
WIN_RATES = ("reward", "judge", "people")


@dataclass(frozen=True)
class Candidate:
    """One model to evaluate: a base, and the adapter on it where there is one. ``run`` tells what it was trained on,
    ``optimised`` what rewarded or ranked its training."""

    name: str
    given: str
    model: ModelConfig
    adapter: Path | None = None
    run: Path | None = None
    optimised: tuple[str, ...] = ()

    def facts(self) -> dict[str, Any]:
        """What the report says of it."""
        model = self.model
        found: dict[str, Any] = {"given": self.given, "base": model.policy, **_identity(model.policy, model.revision)}
        if self.adapter is not None:
            found["adapter"] = str(self.adapter)
            found["adapter_sha256"] = _identity(str(self.adapter), None)["sha256"]
        if self.model.system_prompt is not None:
            found["system_prompt"] = self.model.system_prompt
        return found


@dataclass(frozen=True)
class SetPlan:
    """One set and how its answers are drawn; ``samples`` 0: by likelihood."""

    set: EvaluationSet
    samples: int
    sampling: SamplingConfig


@dataclass(frozen=True)
class Judge:
    """A classifier of toxicity: its name in the report, and the label that counts (None: the first known one)."""

    name: str
    classifier: str
    label: str | None


@dataclass(frozen=True)
class Endpoint:
    """A judge model behind an OpenAI-compatible endpoint; ``key_env`` names the variable that holds its key."""

    url: str
    model: str
    key_env: str | None = None
    jobs: int = 4


@dataclass(frozen=True)
class EvaluationPlan:
    """Everything that was asked for."""

    candidates: tuple[Candidate, ...]
    sets: tuple[SetPlan, ...]
    judges: tuple[Judge, ...]
    rewards: tuple[tuple[str, str], ...] = ()
    win_rates: tuple[str, ...] = ()
    endpoint: Endpoint | None = None
    rankings: Path | None = None
    seed: int = 0


# --- models ----------------------------------------------------------------------------------------------------------


def read_candidates(given: Sequence[str], *, base: str | None, device: str | None = None) -> tuple[Candidate, ...]:
    """The models of the command line, each with a name of its own. InputError for what does not exist."""
    found = [_candidate(one, base) for one in given]
    if device is not None:
        found = [replace(c, model=c.model.model_copy(update={"device": device})) for c in found]
    names = [candidate.name for candidate in found]
    for candidate in found:
        if names.count(candidate.name) > 1:
            raise InputError(
                f"{candidate.given}: {names.count(candidate.name)} models would be called {candidate.name!r}; name "
                f"them: OTHER={candidate.given}"
            )
    return tuple(found)


def _candidate(given: str, base: str | None) -> Candidate:
    name, _, rest = given.partition("=")
    named = bool(rest) and NAME.fullmatch(name) is not None
    spec = rest if named else given
    before = spec.endswith(BEFORE)
    path = Path(spec.removesuffix(BEFORE)).expanduser()
    name = name if named else _usual_name(spec, path, before)
    if (path / STAGES).exists() and (path / CONFIG).exists():
        return _of_run(name, given, path, before)
    if before:
        raise InputError(f"{spec}: {BEFORE} is for run directories, and {path} is none; name the model itself")
    if (path / ADAPTER_CONFIG).exists():
        refuse_no_adapter(path)
        origin = base or trained_on(path)
        if origin is None:
            raise InputError(f"{path}: names no base model in {ADAPTER_CONFIG}; name it with --base")
        return _checked(Candidate(name, given, ModelConfig(policy=origin), path, *_trained_there(path)))
    return _checked(Candidate(name, given, ModelConfig(policy=spec)))


def _usual_name(spec: str, path: Path, before: bool) -> str:
    last = path.name if path.name not in ("adapter", "model") else path.resolve().parent.name
    last = re.sub(r"[^A-Za-z0-9_.-]+", "-", last).strip("-._") or "model"
    return f"{last}-before" if before else last


def _of_run(name: str, given: str, path: Path, before: bool) -> Candidate:
    """The policy of a run directory after training, or the model that it started from."""
    folder = open_run(path, None)
    config, model = folder.config, folder.config.model
    if before:
        start = None if model.adapter is None else Path(model.adapter).expanduser()
        return _checked(Candidate(name, given, model, start))
    folder.facts("align", f"run `humanward align --run {path}`, or name {path}{BEFORE}")
    if config.algorithm == "best-of-n":
        raise InputError(f"{path}: was aligned by best-of-n, which trains no model; name another run")
    if model.train == "full":
        changed = model.model_copy(update={"policy": str(path / "model"), "adapter": None})
        return _checked(Candidate(name, given, changed, None, path, _optimised(config)))
    refuse_no_adapter(path / "adapter", "run the align stage again")
    return _checked(Candidate(name, given, model, path / "adapter", path, _optimised(config)))


def _optimised(config: RunConfig) -> tuple[str, ...]:
    """Classifiers that rewarded the training, or ranked what it learnt from."""
    reward = config.reward
    found = [reward.classifier] if reward.source == "classifier" else []
    found += [str(one.classifier) for one in reward.sources if one.kind == "classifier"]
    if config.feedback.source == "simulated":
        found.append(config.feedback.gold)
    return tuple(dict.fromkeys(name for name in found if name))


def _trained_there(adapter: Path) -> tuple[Path | None, tuple[str, ...]]:
    """The run directory that an adapter lies in, if it does, and what its training optimised."""
    parent = adapter.resolve().parent
    if (parent / STAGES).exists() and (parent / CONFIG).exists():
        return parent, _optimised(open_run(parent, None).config)
    return None, ()


def _checked(candidate: Candidate) -> Candidate:
    """InputError where the base does not exist, before any other model is loaded."""
    model = candidate.model
    path = resolve(model.policy)
    local = path != model.policy or Path(path).exists()
    with readable_errors(model.policy, "model"):
        AutoConfig.from_pretrained(
            path,
            revision=None if local else model.revision,
            trust_remote_code=model.trust_remote_code,
            local_files_only=local or hub_is_unreachable(),
        )
    return candidate


@cache
def _identity(name: str, revision: str | None) -> dict[str, Any]:
    """Commit or digest; found once a process, as weights are read for it."""
    return {key: value for key, value in identify(name, revision).items() if key != "name"}


# --- sets ------------------------------------------------------------------------------------------------------------


def read_sets(
    given: Sequence[str],
    *,
    samples: int | None,
    max_new_tokens: int | None,
    temperature: float | None,
    top_p: float | None,
    limit: int | None,
    batch_size: int,
) -> tuple[SetPlan, ...]:
    """The sets of the command line, each with its protocol's way of drawing answers where nothing else is asked for."""
    plans: list[SetPlan] = []
    for one in given:
        kind, _, rest = one.partition("=")
        named = bool(rest) and re.fullmatch(r"[a-z]+", kind) is not None and not Path(one).exists()
        name = rest if named else one
        path = demo.path(name) if name.startswith("demo/") else Path(name).expanduser()
        found = read_set(_only_file(path), kind if named else None, limit=limit)
        protocol = KINDS[found.kind]
        own = protocol.samples if samples is None or protocol.samples == 0 else samples
        sampling = SamplingConfig(
            max_new_tokens=max_new_tokens or protocol.max_new_tokens or SamplingConfig().max_new_tokens,
            temperature=1.0 if temperature is None else temperature,
            top_p=top_p if top_p is not None else protocol.top_p or 1.0,
            batch_size=batch_size,
        )
        plans.append(SetPlan(found, own, sampling))
    names = [plan.set.name for plan in plans]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise InputError(
            f"--prompts: two files are called {repeated}; rename one, as the files that are written are named so"
        )
    return tuple(plans)


def _only_file(path: Path) -> Path:
    """The test file of a folder of prompts; a file as it is."""
    if not path.is_dir():
        return path
    files = sorted(path.glob("test.*"))
    if len(files) != 1:
        raise InputError(f"{path}: is a folder without exactly one test file; name the file to evaluate on")
    return files[0]


# --- judges ----------------------------------------------------------------------------------------------------------


def read_judges(given: Iterable[str]) -> tuple[Judge, ...]:
    """NAME or NAME#LABEL of classifiers, each once."""
    found = []
    for one in given:
        name, _, label = one.partition("#")
        if not name:
            raise InputError(f"--judge {one!r}: names no classifier; write NAME or NAME#LABEL")
        found.append(Judge(one if label else name, name, label or None))
    if len({judge.name for judge in found}) < len(found):
        raise InputError("--judge: the same judge is named twice; two judges need other training data to tell more")
    return tuple(found)


def read_rewards(given: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """(criterion, source) of NAME=SOURCE or SOURCE."""
    found = []
    for one in given:
        name, _, source = one.partition("=")
        pair = (name, source) if source and NAME.fullmatch(name) else (Path(one).name or one, one)
        found.append(pair)
    if len({name for name, _ in found}) < len(found):
        raise InputError("--reward: two rewards have one name; write NAME=SOURCE for each")
    return tuple(found)


def read_endpoint(url: str | None, model: str | None, key_env: str | None, jobs: int) -> Endpoint | None:
    """The judge model's endpoint; InputError for half of one, or a key's variable that is not set."""
    if url is None and model is None:
        return None
    if url is None or model is None:
        missing = "--judge-url" if url is None else "--judge-model"
        raise InputError(f"{missing}: is missing; a judge model needs both --judge-url and --judge-model")
    if not re.match(r"https?://[^/@]+(/|$)", url):
        raise InputError(
            f"--judge-url {url}: is no http or https address without a user; e.g. http://localhost:8000/v1"
        )
    if key_env is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key_env):
        raise InputError("--judge-key-env: is no name of an environment variable; give the name, never the key itself")
    if key_env is not None and not os.environ.get(key_env, "").strip():
        raise InputError(f"--judge-key-env {key_env}: that environment variable is not set; export it")
    return Endpoint(url, model, key_env, jobs)


def check_win_rates(plan: EvaluationPlan) -> None:
    """InputError for ways to find a winner without what they need."""
    for way in plan.win_rates:
        if way not in WIN_RATES:
            raise InputError(f"--win-rate {way}: unknown; use one of {', '.join(WIN_RATES)}")
    if plan.win_rates and len(plan.candidates) < 2:
        raise InputError("--win-rate: needs two models or more; name another")
    if plan.win_rates and not any(one.samples for one in plan.sets):
        raise InputError("--win-rate: needs a set whose prompts are answered; add one with --prompts")
    if "reward" in plan.win_rates and not plan.rewards:
        raise InputError("--win-rate reward: needs a reward model; name one with --reward")
    if "judge" in plan.win_rates and plan.endpoint is None:
        raise InputError("--win-rate judge: needs a judge model; name it with --judge-url and --judge-model")
    if plan.rankings is not None and "people" not in plan.win_rates:
        raise InputError("--rankings: are of no use without --win-rate people; add it")
