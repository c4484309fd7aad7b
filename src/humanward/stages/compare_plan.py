"""What a comparison runs: one configuration for every algorithm and seed, from one base."""

from __future__ import annotations

import copy
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from humanward.algorithm_config import ALGORITHM_SECTIONS, ALGORITHMS, ON_POLICY, options_of
from humanward.config import RunConfig, override, parse_config, read_toml
from humanward.errors import InputError
from humanward.stages.quickstart import quickstart_values

DEFAULT_ALGORITHMS = ("ppo", "rloo", "dpo")
SHARED_BY = "best-of-n"
"""The algorithm of the shared run: it trains nothing and draws the frontier that training is measured against."""

Values = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """Algorithms and seeds, and the values that their configurations come from.

    ``base`` holds for all; of its algorithm sections each algorithm takes the options that it uses. ``overlays`` holds
    what one algorithm has instead. ``demo`` puts the quickstart's settings beneath both. ``where`` names the base.
    ``asked``: the runs to make, of all algorithms and seeds that the comparison shows.
    """

    algorithms: tuple[str, ...]
    seeds: tuple[int, ...]
    base: Values
    overlays: dict[str, Values]
    demo: bool
    where: str
    asked: tuple[tuple[str, int], ...]

    def config(self, algorithm: str, seed: int) -> RunConfig:
        """The configuration of one run. Its frontier is the shared one, so it draws none itself."""
        values = self._values(algorithm)
        if algorithm in ON_POLICY:
            values.setdefault("best_of_n", {})["prompts"] = 0
        return parse_config({**values, "seed": seed}, where=self.where)

    def shared(self) -> RunConfig:
        """The configuration of the run that all others start from, and of the one that draws the frontier.

        It trains nothing, so it is the same whatever is compared.
        """
        values = self._values(SHARED_BY)
        values["evaluation"] = {**values.get("evaluation", {}), "samples": 1}
        return parse_config(values, where=self.where)

    @property
    def frontier(self) -> bool:
        """Whether the best of n is drawn on the test prompts; ``best_of_n.prompts = 0`` says no."""
        return bool(self.base.get("best_of_n", {}).get("prompts", 1))

    def to_toml(self) -> str:
        """Base and overlays as a file that ``humanward compare`` reads, with the demo's settings written out."""
        values = copy.deepcopy(self.base)
        tables = copy.deepcopy(self.overlays)
        if self.demo:
            values = _merged(_demo_values(None), values)
            for name in self.algorithms:
                tables[name] = _merged(_demo_values(name), _chosen(self.base, name), tables.get(name, {}))
        for name in self.algorithms:
            tables.setdefault(name, {})
        return tomli_w.dumps({**values, "algorithms": {name: tables[name] for name in ALGORITHMS if name in tables}})

    def _values(self, algorithm: str) -> Values:
        base = {key: value for key, value in self.base.items() if key not in ALGORITHM_SECTIONS}
        layers = [_demo_values(None), _demo_values(algorithm)] if self.demo else []
        overlay = self.overlays.get(algorithm, {})
        merged = _merged(*layers, base, _chosen(self.base, algorithm), overlay)
        return {**merged, "algorithm": algorithm}


def read_plan(config: Path | None, algorithms: str | None, seeds: int, overrides: tuple[str, ...]) -> Plan:
    """The plan of a command. Every configuration in it has been checked.

    ``config`` is a run's TOML file, with ``[algorithms.NAME.SECTION]`` tables if any, or None for the embedded default;
    ``algorithms`` are names with commas, ``all``, or None for those of the tables (without tables: ppo, rloo, dpo).
    """
    base = {} if config is None else read_toml(config)
    where = "configuration" if config is None else str(config)
    override(base, overrides)
    overlays = _overlays(base.pop("algorithms", {}), where)
    base.pop("algorithm", None)
    names = _names(algorithms, tuple(overlays))
    first = base.get("seed", 0)
    first = first if isinstance(first, int) and first >= 0 else 0  # what is wrong with it is said below
    wanted = tuple(range(first, first + seeds))
    # Seed by seed, so that what is there at any moment compares all algorithms.
    asked = tuple((name, seed) for seed in wanted for name in names)
    plan = Plan(names, wanted, base, overlays, config is None, where, asked)
    for name in dict.fromkeys((*names, *overlays, SHARED_BY)):
        parse_config(plan._values(name), where=where)
    plan.shared()
    for name in names:
        plan.config(name, first)
    _refuse_unused(overrides, names)
    return plan


def _names(given: str | None, tables: tuple[str, ...]) -> tuple[str, ...]:
    if given is None:
        return tables or DEFAULT_ALGORITHMS
    if given.strip() == "all":
        return ALGORITHMS
    names = [name.strip() for name in given.split(",")]
    for name in names:
        if name not in ALGORITHMS:
            raise InputError(
                f"--algorithms {given}: {name!r} is unknown; use all, or some of {', '.join(ALGORITHMS)} with commas"
            )
        if names.count(name) > 1:
            raise InputError(f"--algorithms {given}: {name} appears twice; name each algorithm once")
    return tuple(names)


def _overlays(tables: Any, where: str) -> dict[str, Values]:
    if not isinstance(tables, dict):
        raise InputError(f"{where}: algorithms = {tables!r}: is a value; write tables such as [algorithms.rloo.ppo]")
    for name, sections in tables.items():
        if name not in ALGORITHMS:
            raise InputError(f"{where}: algorithms.{name}: is no algorithm; use one of {', '.join(ALGORITHMS)}")
        if not isinstance(sections, dict):
            raise InputError(
                f"{where}: algorithms.{name} = {sections!r}: is a value; write tables such as [algorithms.{name}.ppo]"
            )
        if others := [section for section in sections if section not in ALGORITHM_SECTIONS]:
            raise InputError(
                f"{where}: algorithms.{name}.{others[0]}: all algorithms start from the same {others[0]}; only "
                f"{', '.join(ALGORITHM_SECTIONS)} may differ"
            )
    return tables


def _refuse_unused(overrides: tuple[str, ...], names: tuple[str, ...]) -> None:
    """An option given by --set that none of the algorithms uses was given in vain."""
    for one in overrides:
        section, _, key = one.partition("=")[0].partition(".")
        if section in ALGORITHM_SECTIONS and key and one.partition("=")[0] != "best_of_n.prompts":
            users = [name for name in ALGORITHMS if key in options_of(name).get(section, ())]
            if not set(users) & {*names, SHARED_BY}:
                raise InputError(f"--set {one}: none of {', '.join(names)} uses it; {', '.join(users)} do")


def _chosen(base: Values, algorithm: str) -> Values:
    """The base's algorithm sections without the options that the algorithm does not use; unknown keys stay, so that
    they are refused. Raises InputError for a section that is a value."""
    used = options_of(algorithm)
    known = {section: _fields(section) for section in ALGORITHM_SECTIONS}
    found: Values = {}
    for section in ALGORITHM_SECTIONS:
        given = base.get(section, {})
        if not isinstance(given, dict):
            found[section] = given
            continue
        kept = {key: v for key, v in given.items() if key in used.get(section, ()) or key not in known[section]}
        if kept:
            found[section] = kept
    return found


def _fields(section: str) -> frozenset[str]:
    annotation: Any = RunConfig.model_fields[section].annotation
    return frozenset(annotation.model_fields)


def _demo_values(algorithm: str | None) -> Values:
    """The quickstart's settings: those of one algorithm alone, or with None those of all."""
    values = quickstart_values(algorithm or SHARED_BY, "trained", rank_yourself=False, seed=0)
    wanted = [key for key in values if (key in ALGORITHM_SECTIONS) == (algorithm is not None) and key != "algorithm"]
    return {key: values[key] for key in wanted}


def _merged(*layers: Values) -> Values:
    """Later layers over earlier ones, section by section."""
    merged: Values = {}
    for layer in layers:
        for key, value in layer.items():
            below = merged.get(key)
            merged[key] = {**below, **value} if isinstance(below, dict) and isinstance(value, dict) else value
    return copy.deepcopy(merged)


def resolved(config: RunConfig) -> Values:
    """A configuration as plain values, with what the algorithm does not use left out."""
    return tomllib.loads(config.to_toml())
