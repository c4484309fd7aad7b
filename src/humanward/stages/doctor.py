"""humanward doctor: what this machine can run, and what a configuration will hold in memory, before anything is loaded.

The same prediction refuses a run that cannot fit, where the system would otherwise kill the process: docs/memory.md.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import peft
import torch
from rich.console import Console
from rich.table import Column, Table
from transformers import AutoConfig, AutoTokenizer

from humanward.algorithm_config import OFF_POLICY
from humanward.config import ClassifierOptions, RunConfig
from humanward.errors import InputError
from humanward.models.adapters import refuse_no_adapter
from humanward.models.loading import (
    fast_bf16_cpu,
    hub_is_unreachable,
    pick_device,
    pick_dtype,
    readable_errors,
    resolve,
)
from humanward.models.machine import available_memory, cores, resident
from humanward.models.memory import (
    Changes,
    ClassifierSize,
    Prediction,
    changed,
    predict,
    readable,
    remedies,
)
from humanward.models.rehearsal import Build, ModelSizes, classifier_size
from humanward.reward.model import member_folders
from humanward.reward_config import ClassifierSource
from humanward.stages.order import needed

LIBRARIES = ("torch", "transformers", "peft", "safetensors", "numpy")
EXTRAS: dict[str, tuple[str, ...]] = {
    "qlora": ("bitsandbytes", "accelerate"),
    "collect": ("fastapi", "uvicorn", "sqlalchemy", "alembic", "argon2"),
    "aws": ("boto3",),
    "recipe": ("sklearn",),
}
"""Extras of the package with the modules that each brings."""


# --- the machine -----------------------------------------------------------------------------------------------------


def describe_machine() -> dict[str, Any]:
    """Versions, processor, memory, CUDA devices and extras, as ``--json`` prints them; bytes are bytes."""
    return {
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in LIBRARIES}},
        "cpu": {"cores": cores(), "memory_free": available_memory(), "fast_bfloat16": fast_bf16_cpu()},
        "cuda": [_cuda(number) for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0)],
        "extras": {
            extra: {
                "installed": not (missing := [name for name in modules if find_spec(name) is None]),
                "missing": missing,
                "install": f"pip install 'humanward[{extra}]'",
            }
            for extra, modules in EXTRAS.items()
        },
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cuda(number: int) -> dict[str, Any]:
    free, total = torch.cuda.mem_get_info(number)
    name = torch.cuda.get_device_name(number)
    return {"device": f"cuda:{number}", "name": name, "memory_free": free, "memory_total": total}


# --- what a configuration will hold ----------------------------------------------------------------------------------


def sizes_of(config: RunConfig) -> ModelSizes:
    """The sizes of a run's models, from their config.json files alone; InputError for names that lead nowhere."""
    model, device = config.model, pick_device(config.model.device)
    read = _config(model.policy, model.revision, trust=model.trust_remote_code)
    adapter = None
    if model.adapter is not None:
        folder = Path(model.adapter).expanduser()
        refuse_no_adapter(folder)
        with readable_errors(model.adapter, "adapter"):
            adapter = peft.PeftConfig.from_pretrained(str(folder))
    build = Build(
        read,
        pick_dtype(model.dtype, device),
        config.lora,
        model.policy,
        adapter=adapter,
        whole=model.train == "full",
        quantized=model.quantization == "nf4",
    )
    return ModelSizes(build, _classifiers(config), _ready_reward_models(config), _vocabulary(config))


def _options(name: str, revision: str | None) -> tuple[str, dict[str, Any]]:
    path = resolve(name)
    if Path(path).exists():
        return path, {"local_files_only": True}
    return path, {"revision": revision, "local_files_only": hub_is_unreachable()}


def _config(name: str, revision: str | None, *, trust: bool = False) -> Any:
    path, options = _options(name, revision)
    with readable_errors(name, "configuration"):
        return AutoConfig.from_pretrained(path, trust_remote_code=trust, **options)


def _vocabulary(config: RunConfig) -> int:
    """The tokens of all tokenizers that the run holds, read from the policy's; classifiers' are of a like size."""
    path, options = _options(config.model.policy, config.model.revision)
    with readable_errors(config.model.policy, "tokenizer"):
        return len(AutoTokenizer.from_pretrained(path, **options))


def _classifiers(config: RunConfig) -> list[ClassifierSize]:
    """The judge, and those of reward and simulated annotators where the run has them."""
    judged, reward, feedback = config.evaluation, config.reward, config.feedback
    found = [_classifier(config, "judge", judged.judge, judged.judge_revision, judged.judge_options)]
    if config.algorithm not in OFF_POLICY:
        if reward.source == "classifier":
            found.append(
                _classifier(config, "reward", reward.classifier, reward.classifier_revision, reward.classifier_options)
            )
        found += [
            _classifier(config, f"reward {one.name or one.kind}", one.classifier, one.revision, one)
            for one in reward.sources
            if isinstance(one, ClassifierSource)
        ]
    if "feedback" in needed(config) and feedback.source == "simulated":
        found.append(_classifier(config, "gold", feedback.gold, None, feedback.gold_options))
    return found


def _classifier(
    config: RunConfig, role: str, name: str, revision: str | None, options: ClassifierOptions
) -> ClassifierSize:
    device = pick_device(options.device or config.model.device)
    read = _config(name, revision)
    length = 2 * config.sampling.max_new_tokens
    if options.text != "response" or options.template == "chat":
        length += 2 * config.model.max_prompt_tokens
    limits = [options.max_tokens or 0, int(getattr(read, "max_position_embeddings", 0) or 0) - 2, 512]
    length = min(length, *(limit for limit in limits if limit > 0))
    return classifier_size(role, read, pick_dtype(options.dtype, device), device.type, options.batch_size, length)


def _ready_reward_models(config: RunConfig) -> int:
    """Bytes of the adapters of ready-trained reward models, which are loaded in float32 as they are saved."""
    folders = [place for name in config.reward.models for place in member_folders(Path(name).expanduser())]
    return sum((folder / "adapter_model.safetensors").stat().st_size for folder in folders)


class Forecast:
    """The prediction for a configuration on this machine, and whether it fits."""

    def __init__(self, config: RunConfig, sizes: ModelSizes | None = None) -> None:
        self.config = config
        self.device = pick_device(config.model.device).type
        self.sizes = sizes or sizes_of(config)
        self.overhead = resident()
        self.prediction = self._predict(config)
        self.precision = self.sizes.precision()

    def _predict(self, config: RunConfig) -> Prediction:
        return predict(config, self._sizes(config), self.device, self.overhead)

    def _sizes(self, config: RunConfig) -> ModelSizes:
        same = config.model.train == self.config.model.train
        return self.sizes if same else sizes_of(config)

    def free(self, device: str) -> int | None:
        """Bytes that a device can still give to this process, those that it has included; None where unknown."""
        if device == "cuda":
            return int(torch.cuda.mem_get_info()[0])
        free = available_memory()
        return None if free is None else free + self.overhead

    def does_not_fit(self, config: RunConfig | None = None) -> str | None:
        """The first device whose memory does not hold the peak; None where all do."""
        prediction = self.prediction if config is None else self._predict(config)
        for device in prediction.devices:
            free = self.free(device)
            if free is not None and prediction.peak(device)[1] > free:
                return device
        return None

    def refuse(self) -> None:
        """InputError with the options that would make it fit, where it does not."""
        device = self.does_not_fit()
        if device is None:
            return
        moment, peak = self.prediction.peak(device)
        found = remedies(self.config, lambda config: self.does_not_fit(config) is None)
        raise InputError(
            f"{self.config.model.policy}: needs about {readable(peak)} at its peak ({moment}) and "
            f"{'the GPU' if device == 'cuda' else 'this machine'} has {readable(self.free(device) or 0)} free; "
            f"{self._advice(found, device)} (humanward doctor shows every line; model.memory_check = false skips this)"
        )

    def _advice(self, found: list[Changes], device: str) -> str:
        if not found:
            return "no option of gradient checkpointing, batches and quantisation is enough: name a smaller model"
        words = [
            f"{' and '.join(f'{key} = {_toml(value)}' for key, value in changes.items())} "
            f"({readable(self._predict(changed(self.config, changes)).peak(device)[1])})"
            for changes in found
        ]
        return f"set {', or '.join(words)}"


def _toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


def refuse_what_cannot_fit(config: RunConfig, warn: Callable[[str], None]) -> None:
    """InputError where the configuration cannot fit; a warning where its models cannot be rehearsed.

    A bound that takes no rehearsal comes first, so that small models cost no time.
    """
    if not config.model.memory_check:
        return
    sizes = sizes_of(config)
    free = available_memory()
    if pick_device(config.model.device).type == "cpu" and (free is None or sizes.bound(config) < free):
        return
    forecast = _forecast(config, sizes)
    if isinstance(forecast, str):
        warn(forecast)
    else:
        forecast.refuse()


def _forecast(config: RunConfig, sizes: ModelSizes) -> Forecast | str:
    """The forecast, or why there is none."""
    try:
        return Forecast(config, sizes)
    except InputError:
        raise
    except Exception as error:  # whatever a model's own code raises on tensors without numbers
        first = (str(error).strip().splitlines() or [""])[0][:120]
        return (
            f"{config.model.policy}: its peak memory cannot be predicted, because its forward needs numbers "
            f"({type(error).__name__}: {first}); nothing was checked"
        )


# --- what the command prints -----------------------------------------------------------------------------------------


def show(content: dict[str, Any], forecast: Forecast | None) -> None:
    """The same as tables."""
    console = Console(soft_wrap=True)
    machine = content["machine"]
    console.print("  ".join(f"{name} {number or 'missing'}" for name, number in machine["versions"].items()))
    cpu, free = machine["cpu"], machine["cpu"]["memory_free"]
    speed = "fast" if cpu["fast_bfloat16"] else "slow (no AVX-512 BF16 or AMX)"
    console.print(f"CPU: {cpu['cores']} cores, {readable(free) if free else 'unknown'} free, bfloat16 {speed}")
    for gpu in machine["cuda"]:
        free, total = readable(gpu["memory_free"]), readable(gpu["memory_total"])
        console.print(f"{gpu['device']}: {gpu['name']}, {free} of {total} free")
    if not machine["cuda"]:
        console.print("CUDA: no device")
    for extra, found in machine["extras"].items():
        missing = ", ".join(found["missing"])
        console.print(
            f"extra {extra}: installed" if found["installed"] else f"extra {extra}: no {missing}; {found['install']}",
            markup=False,
        )
    if "unpredicted" in content:
        console.print(content["unpredicted"], markup=False)
    if forecast is None:
        return
    console.print(f"\n{content['policy']}", markup=False)
    for name, value in content["precision"].items():
        console.print(f"  {name.replace('_', '-')}: {value}", markup=False)
    console.print(_table(forecast.prediction))
    for device, one in content["devices"].items():
        free = "unknown" if one["free"] is None else readable(one["free"])
        console.print(
            f"{device}: {readable(one['peak'])} at the peak ({one['peak_moment']}), {free} free", highlight=False
        )


def _table(prediction: Prediction) -> Table:
    """Every line with its bytes, and the moments of each device below."""
    table = Table("role", "thing", Column("memory", justify="right"), "where", "when", "how it is reckoned", box=None)
    moments = dict.fromkeys(moment for line in prediction.lines for moment in line.moments)
    for line in prediction.lines:
        when = "always" if set(line.moments) == set(moments) else ", ".join(line.moments)
        table.add_row(line.role, line.thing, readable(line.bytes), line.device, when, line.formula)
    for device in prediction.devices:
        for moment, size in prediction.moments(device).items():
            table.add_row("all", "together", readable(size), device, moment, _batch(prediction, moment), style="bold")
    return table


def _batch(prediction: Prediction, moment: str) -> str:
    batch = prediction.batches.get(moment)
    return "" if batch is None else f"{batch.rows} rows of {batch.prompt} + {batch.response} tokens"


def diagnose(config: RunConfig | None) -> tuple[dict[str, Any], Forecast | None]:
    """(what ``--json`` prints, the forecast): the machine, and with a configuration its precision and its memory."""
    content: dict[str, Any] = {"machine": describe_machine()}
    if config is None:
        return content, None
    forecast = _forecast(config, sizes_of(config))
    if isinstance(forecast, str):
        return {**content, "unpredicted": forecast}, None
    prediction = forecast.prediction
    content["policy"] = config.model.policy
    content["precision"] = forecast.precision
    content["batches"] = {name: vars(batch) for name, batch in prediction.batches.items()}
    content["lines"] = [vars(line) | {"moments": list(line.moments)} for line in prediction.lines]
    content["devices"] = {
        device: {
            "moments": prediction.moments(device),
            "peak": prediction.peak(device)[1],
            "peak_moment": prediction.peak(device)[0],
            "free": forecast.free(device),
        }
        for device in prediction.devices
    }
    content["fits"] = forecast.does_not_fit() is None
    return content, forecast
