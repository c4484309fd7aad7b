"""Pairs of answers that people judged, of one form whatever file they came from: what a reward is measured on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from humanward.errors import InputError
from humanward.evaluation.protocols.sets import read_set
from humanward.prompts import content_key, make_prompt
from humanward.records import Preference, Prompt, content_id
from humanward.rows import Row, read_rows, stem


@dataclass(frozen=True)
class JudgedPair:
    """Two answers to one prompt, ``chosen`` the one that more people preferred, or either where they ``tie``.

    ``annotators`` judged it, and ``agreement`` is the share of them that said what the pair says. ``margin`` is how
    much better they found it, where they said so.
    """

    prompt: Prompt
    chosen: str
    rejected: str
    tie: bool = False
    subset: str = ""
    criterion: str = "overall"
    annotators: int = 1
    agreement: float = 1.0
    margin: float | None = None

    @property
    def cluster(self) -> str:
        """What intervals resample: the prompt."""
        return content_key(self.prompt)


@dataclass(frozen=True)
class PairSet:
    """The pairs of one file or run. ``total`` counts them before a limit, ``identical`` those dropped because both
    sides are one text, ``duplicates`` repeated ones. ``path`` says where they are from."""

    name: str
    kind: str
    path: str
    pairs: tuple[JudgedPair, ...]
    total: int
    identical: int = 0
    duplicates: int = 0


def from_preferences(preferences: Iterable[Preference]) -> list[JudgedPair]:
    """One pair for every two answers under a criterion; what several annotators said of them is counted.

    The pair says what most of them said; where no side has most, or most called it a tie, it is a tie.
    """
    votes: dict[tuple[str, str, str, str], list[Preference]] = {}
    for one in preferences:
        first, second = sorted((one.chosen, one.rejected))
        votes.setdefault((content_key(one.prompt), one.criterion, first, second), []).append(one)
    found = []
    for (_, criterion, first, second), group in votes.items():
        count = Counter(None if one.tie else one.chosen for one in group)
        (said, most), *others = count.most_common()
        if said is None or any(number == most for _, number in others):
            said, most = None, count[None]
        better = first if said is None else said
        margins = [one.margin for one in group if one.margin is not None and not one.tie and one.chosen == said]
        found.append(
            JudgedPair(
                group[0].prompt,
                better,
                second if better == first else first,
                tie=said is None,
                criterion=criterion,
                annotators=len(group),
                agreement=most / len(group),
                margin=sum(margins) / len(margins) if margins else None,
            )
        )
    return found


# --- files -----------------------------------------------------------------------------------------------------------


def _auto_j(row: Mapping[str, Any], where: str, source: str) -> JudgedPair:
    return _labelled(
        row, where, source, "prompt", ("response 1", "response 2"), {0: 0, 1: 1, 2: None}, str(row["scenario"])
    )


def _llmbar(row: Mapping[str, Any], where: str, source: str) -> JudgedPair:
    return _labelled(row, where, source, "input", ("output_1", "output_2"), {1: 0, 2: 1}, "")


def _labelled(
    row: Mapping[str, Any],
    where: str,
    source: str,
    field: str,
    sides: tuple[str, str],
    better: Mapping[int, int | None],
    subset: str,
) -> JudgedPair:
    texts = []
    for name in sides:
        value = row.get(name)
        if not isinstance(value, str):
            raise InputError(f"{where}, field {name!r}: is missing or no text; write the answer")
        texts.append(value.strip())
    label = row.get("label")
    if isinstance(label, bool) or label not in better:
        listed = ", ".join(map(str, better))
        raise InputError(f"{where}, field 'label': {label!r} is none of {listed}; write which answer is better")
    place = better[label]  # type: ignore[index]
    prompt = make_prompt(row.get(field), f"{where}, field {field!r}", source=source)
    first = 0 if place is None else place
    return JudgedPair(prompt, texts[first], texts[1 - first], tie=place is None, subset=subset)


Reader = Callable[[Mapping[str, Any], str, str], JudgedPair]
LABELLED: dict[str, tuple[frozenset[str], Reader]] = {
    "auto-j": (frozenset({"scenario", "prompt", "response 1", "response 2", "label"}), _auto_j),
    "llmbar": (frozenset({"input", "output_1", "output_2", "label"}), _llmbar),
}
KINDS = ("pairs", *LABELLED, "feedback")
"""``pairs``: prompt, chosen, rejected and, if there is one, subset, as RewardBench and HHH have them. ``feedback``: our
own files and all formats of `humanward feedback import`."""


def read_pair_set(path: Path, kind: str | None, feedback: Callable[[Path], Sequence[Preference]]) -> PairSet:
    """The pairs of a file; ``feedback`` reads what is none of the published evaluation sets.

    Raises InputError for a malformed row (file, line, field), or a file without pairs.
    """
    if kind is not None and kind not in KINDS:
        raise InputError(f"--pairs {kind}={path}: unknown kind of pairs; use one of {', '.join(KINDS)}")
    rows = read_rows(path)
    first = next(rows, None)
    if first is None:
        raise InputError(f"{path}: holds no pairs; write at least one a line")
    kind = kind or _recognised(first)
    if kind == "pairs":
        found = read_set(path, "hhh")
        pairs = [JudgedPair(i.prompt, i.choices[0], i.choices[1], subset=i.group) for i in found.items]
        return _finished(path, kind, pairs, found.duplicates)
    if kind in LABELLED:
        return _finished(path, kind, list(_read(kind, chain([first], rows), stem(path))))
    return _finished(path, kind, from_preferences(feedback(path)))


def of_run(path: Path, preferences: Sequence[Preference]) -> PairSet:
    """The pairs that a run held out."""
    return _finished(path, "run", from_preferences(preferences), name="held-out pairs")


def limited(found: PairSet, limit: int | None) -> PairSet:
    """At most ``limit`` of the pairs, chosen by a hash of what they are."""
    if limit is None or limit >= len(found.pairs):
        return found
    order = sorted(found.pairs, key=lambda pair: content_id("measured", pair.cluster, pair.chosen, pair.rejected))
    kept = set(order[:limit])
    return replace(found, pairs=tuple(pair for pair in found.pairs if pair in kept))


def _recognised(first: Row) -> str:
    value = first.checked()
    fields = set(value) if isinstance(value, dict) else set()
    for name, (needed, _) in LABELLED.items():
        if needed <= fields:
            return name
    plain = {"prompt", "chosen", "rejected"} <= fields and all(
        isinstance(value[side], str) for side in ("prompt", "chosen", "rejected")
    )
    return "pairs" if plain else "feedback"


def _read(kind: str, rows: Iterable[Row], source: str) -> Iterator[JudgedPair]:
    needed, read = LABELLED[kind]
    for row in rows:
        value = row.checked()
        if not isinstance(value, dict) or (missing := sorted(needed - value.keys())):
            lacking = f"field {missing[0]!r} is missing" if isinstance(value, dict) else "is not an object"
            raise InputError(f"{row.where}: {lacking}; {kind} needs {', '.join(sorted(needed))}")
        yield read(value, row.where, source)


def _finished(
    path: Path, kind: str, pairs: Sequence[JudgedPair], duplicates: int = 0, *, name: str | None = None
) -> PairSet:
    kept = {
        (pair.cluster, pair.criterion, pair.subset, *sorted((pair.chosen, pair.rejected))): pair
        for pair in reversed(pairs)
        if pair.chosen != pair.rejected
    }
    identical = sum(pair.chosen == pair.rejected for pair in pairs)
    chosen = tuple(reversed(kept.values()))
    strict = {pair.cluster for pair in chosen if not pair.tie}
    if len(strict) < 2:
        raise InputError(
            f"{path}: holds strict pairs of {len(strict)} prompts (ties and pairs of one text aside); accuracy needs "
            "two or more, so name a file with more"
        )
    repeated = duplicates + len(pairs) - identical - len(chosen)
    return PairSet(name or stem(path), kind, str(path), chosen, len(chosen), identical, repeated)
