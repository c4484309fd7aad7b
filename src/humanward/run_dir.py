"""One run's folder: resolved configuration, metrics, finished stages, and all-or-nothing writes."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from humanward.algorithm_config import ALGORITHM_SECTIONS, ALGORITHMS, DEFAULTS_OF, options_of
from humanward.config import RunConfig, load_config, parse_config
from humanward.errors import InputError, writing

CONFIG, METRICS, STAGES, MODELS = "config.toml", "metrics.jsonl", "stages.json", "models.json"


class RunDir:
    """A run's folder that belongs to one configuration."""

    def __init__(self, path: Path, config: RunConfig) -> None:
        self.path, self.config = path, config

    def file(self, name: str) -> Path:
        """The path of ``name`` in this run."""
        return self.path / name

    # --- stages ------------------------------------------------------------------------------------------------------

    def stages(self) -> dict[str, dict[str, Any]]:
        """What each finished stage recorded: ``seconds``, ``finished`` (UTC) and facts of its own."""
        path = self.file(STAGES)
        if not path.exists():
            return {}
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise InputError(f"{path}: damaged ({error.msg}); delete it to run every stage again") from None

    def facts(self, stage: str, remedy: str) -> dict[str, Any]:
        """The record of a stage that must have finished; otherwise an InputError that says what to run."""
        stages = self.stages()
        if stage not in stages:
            raise InputError(f"{self.path}: the {stage} stage has not finished; {remedy}")
        return stages[stage]

    def finish(self, stage: str, seconds: float, **facts: Any) -> None:
        """Record a stage as finished; those after it, if any, must run again and are forgotten."""
        stages = self.stages()
        kept = dict(list(stages.items())[: list(stages).index(stage)]) if stage in stages else stages
        kept[stage] = {
            "seconds": round(seconds, 3),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            **facts,
        }
        write_text(self.file(STAGES), json.dumps(kept, indent=1, ensure_ascii=False) + "\n")

    # --- models ------------------------------------------------------------------------------------------------------

    def models(self) -> dict[str, dict[str, str | None]]:
        """The models of this run by their use (policy, judge, ...): ``name``, and ``commit`` or ``sha256``."""
        path = self.file(MODELS)
        if not path.exists():
            return {}
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise InputError(f"{path}: damaged ({error.msg}); delete it to record the models as they are now") from None

    def revision(self, use: str, name: str, wanted: str | None) -> str | None:
        """The commit of ``name`` that this run began with for ``use``, or else the ``wanted`` revision.

        So a run goes on with the weights that it began with, whatever the hub's branch names by then.
        """
        recorded = self.models().get(use, {})
        return recorded["commit"] if recorded.get("name") == name and recorded.get("commit") else wanted

    def pin(self, use: str, model: dict[str, str | None]) -> None:
        """Record which weights serve ``use``; InputError where a run began with others under the same name."""
        models = self.models()
        before = models.get(use)
        if before is not None and before["name"] == model["name"]:
            key = "commit" if "commit" in model else "sha256"
            if model[key] is None or model[key] == before.get(key):
                return
            if before.get(key) is not None:
                raise InputError(
                    f"{self.path}: began with another {use} under the name {model['name']} ({key} "
                    f"{str(before[key])[:12]} then, {str(model[key])[:12]} now); bring that one back, or start a new "
                    "run with --out"
                )
        write_text(self.file(MODELS), json.dumps({**models, use: model}, indent=1, ensure_ascii=False) + "\n")

    # --- metrics -----------------------------------------------------------------------------------------------------

    def log(self, metrics: dict[str, Any]) -> None:
        """Append one object to metrics.jsonl; a number that is not finite is written as null."""
        row = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in metrics.items()}
        with writing(self.file(METRICS)), self.file(METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """All logged objects, in order; a last line that a crash cut short is left out."""
        path = self.file(METRICS)
        if not path.exists():
            return []
        *whole, _cut_short = path.read_text(encoding="utf-8").split("\n")
        try:
            return [json.loads(line) for line in whole]
        except json.JSONDecodeError as error:
            raise InputError(f"{path}: damaged ({error.msg}); delete it to go on without earlier curves") from None

    def begin(self, stage: str, *prefixes: str) -> None:
        """From here on ``stage`` replaces what an earlier attempt left: its metrics (by prefix) and its record.

        Stages after it are forgotten too, so that an interrupted repetition never looks finished.
        """
        stages = self.stages()
        if stage in stages:
            kept = dict(list(stages.items())[: list(stages).index(stage)])
            write_text(self.file(STAGES), json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
        for prefix in prefixes:
            self.forget_metrics(prefix)

    def forget_metrics(self, prefix: str) -> None:
        """Drop what was logged under ``prefix``/..."""
        kept = [row for row in self.metrics() if not any(key.startswith(f"{prefix}/") for key in row)]
        write_text(self.file(METRICS), "".join(json.dumps(row) + "\n" for row in kept))


def open_run(path: Path, config: RunConfig | None) -> RunDir:
    """The run in ``path``, made if absent. Without ``config`` the folder must hold one already.

    A folder that belongs to another configuration is refused: its files would not fit together.
    """
    file = path / CONFIG
    if path.exists() and not path.is_dir():
        raise InputError(f"{path}: is a file, not a run directory; name a folder")
    if config is None:
        if not file.exists():
            raise InputError(
                f"{path}: not a run directory (no {CONFIG}); start one with `humanward run CONFIG.toml --out {path}`"
            )
        return RunDir(path, load_config(file))
    if file.exists() and not _unused(path):
        try:
            present = tomllib.loads(file.read_text(encoding="utf-8"))
        except tomllib.TOMLDecodeError as error:
            raise InputError(f"{file}: damaged ({error}); choose another folder with --out") from None
        wanted = tomllib.loads(config.to_toml())
        if different := _differences(present, wanted):
            key, old, new = different[0]
            more = f" and {len(different) - 1} more" if len(different) > 1 else ""
            raise InputError(
                f"{path}: belongs to another configuration ({key} is {old!r} there and {new!r} here{more}); "
                "choose another folder with --out, or delete it"
            )
    elif not file.exists() and path.exists() and any(path.iterdir()):
        raise InputError(f"{path}: holds other files and no {CONFIG}; choose an empty or new folder with --out")
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
        if _unused(path):
            (path / MODELS).unlink(missing_ok=True)
    write_text(file, config.to_toml())
    return RunDir(path, config)


def change_algorithm(path: Path, algorithm: str, *, again: bool) -> list[str]:
    """Give the run in ``path`` another algorithm; returns what to tell. Options that both use keep their values.

    Raises InputError for an unknown algorithm, and without ``again`` where the align stage has finished by another one:
    its adapter and everything after it would be replaced.
    """
    folder = open_run(path, None)
    before = folder.config.algorithm
    if algorithm == before:
        return []
    if algorithm not in ALGORITHMS:
        raise InputError(f"--algorithm {algorithm}: unknown; use one of {', '.join(ALGORITHMS)}")
    if "align" in folder.stages() and not again:
        raise InputError(
            f"{path}: was aligned by {before}; --again replaces that by {algorithm}, "
            "or `humanward compare` runs both side by side"
        )
    used = options_of(algorithm)
    values = {**tomllib.loads(folder.file(CONFIG).read_text(encoding="utf-8")), "algorithm": algorithm}
    dropped: list[str] = []
    for section in ALGORITHM_SECTIONS:
        given = values.pop(section, {})
        if kept := {key: value for key, value in given.items() if key in used.get(section, ())}:
            # What differs from one algorithm to the next by default follows the new one.
            own = {key for defaults in DEFAULTS_OF.values() for key in defaults.get(section, ())}
            values[section] = {key: value for key, value in kept.items() if key not in own}
        dropped += [f"{section}.{key}" for key in given if key not in used.get(section, ())]
    config = parse_config(values, where=str(folder.file(CONFIG)))
    write_text(folder.file(CONFIG), config.to_toml())
    left = f"; {len(dropped)} options that only {before} uses were left out" if dropped else ""
    return [f"align: {algorithm} instead of {before}{left}"]


def _unused(path: Path) -> bool:
    """Whether the folder holds a configuration that open_run wrote, at most the models' record, and nothing else."""
    file = path / CONFIG
    if {p.name for p in path.iterdir()} - {MODELS} != {CONFIG}:
        return False
    try:
        return load_config(file).to_toml() == file.read_text("utf-8")
    except InputError:
        return False


@contextlib.contextmanager
def leaving_nothing_half_begun(folder: RunDir) -> Iterator[None]:
    """Bad input that is found before a stage has written anything takes the folder away again."""
    try:
        yield
    except InputError:
        if _unused(folder.path):
            folder.file(MODELS).unlink(missing_ok=True)
            folder.file(CONFIG).unlink()
            folder.path.rmdir()
        raise


def _differences(present: dict[str, Any], wanted: dict[str, Any], prefix: str = "") -> list[tuple[str, Any, Any]]:
    found: list[tuple[str, Any, Any]] = []
    for key in sorted(present.keys() | wanted.keys()):
        old, new = present.get(key), wanted.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append((f"{prefix}{key}", old, new))
    return found


def write_text(path: Path, text: str) -> None:
    """Write ``text`` all or nothing."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path):
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that becomes ``path`` (replacing it) when the block ends well, and vanishes otherwise."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    old = path.with_name(f".{path.name}.{os.getpid()}.old.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    with writing(path):
        try:
            temporary.mkdir(parents=True)
            yield temporary
            if path.exists():
                path.replace(old)
            temporary.replace(path)
        finally:
            if old.exists() and not path.exists():
                old.replace(path)
            for folder in (temporary, old):
                shutil.rmtree(folder, ignore_errors=True)
