"""Answers and likelihoods of the models to evaluate, in files that a stopped evaluation goes on with.

All models answer the same prompts with the same random numbers: a sample depends on the seed, the set, the item and the
sample's number alone. One base is held at a time; adapters of one base share it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from humanward.errors import InputError
from humanward.evaluation.protocols.rows import AnswerLine, LikelihoodLine, append_lines, missing, read_lines
from humanward.evaluation.protocols.sets import Item
from humanward.models.adapters import notice_of_another_base
from humanward.models.base import SharedBase
from humanward.models.chunks import length_chunks
from humanward.models.loading import load_model
from humanward.models.sampling import sample
from humanward.progress import Reporter
from humanward.run_dir import write_text
from humanward.stages.evaluate_plan import Candidate, SetPlan

MADE = "made.json"


class EvaluationDir:
    """The folder of an evaluation: its files, and with which settings each was made."""

    def __init__(self, path: Path) -> None:
        if path.exists() and not path.is_dir():
            raise InputError(f"{path}: is a file, not a folder; choose another with --out")
        if path.is_dir() and any(path.iterdir()) and not (path / MADE).exists():
            raise InputError(f"{path}: holds other files and no {MADE}; choose an empty or new folder with --out")
        self.path = path

    def file(self, name: str, settings: dict[str, Any]) -> Path:
        """The path of a file that these settings make; InputError where it was begun with others."""
        made = self._made()
        wanted = json.loads(json.dumps(settings))
        if name not in made:
            self.path.mkdir(parents=True, exist_ok=True)
            write_text(self.path / MADE, json.dumps({**made, name: wanted}, indent=1, ensure_ascii=False) + "\n")
        elif different := [key for key in {**made[name], **wanted} if made[name].get(key) != wanted.get(key)]:
            key = different[0]
            raise InputError(
                f"{self.path / name}: was made with another {key} ({_short(made[name].get(key))} then, "
                f"{_short(wanted.get(key))} now); choose another folder with --out, or delete this one"
            )
        return self.path / name

    def _made(self) -> dict[str, dict[str, Any]]:
        path = self.path / MADE
        if not path.exists():
            return {}
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise InputError(f"{path}: damaged ({error.msg}); choose another folder with --out") from None


def answer_settings(candidate: Candidate, plan: SetPlan, seed: int) -> dict[str, Any]:
    """What decides the answers of one model to one set."""
    facts = {key: value for key, value in candidate.facts().items() if key not in ("given", "adapter")}
    ids = hashlib.sha256("\x1f".join(item.id for item in plan.set.items).encode()).hexdigest()[:16]
    settings = {**facts, "kind": plan.set.kind, "prompts": f"{len(plan.set.items)} ({ids})", "samples": plan.samples}
    if not plan.samples:
        return settings
    drawn = plan.sampling.model_dump(exclude={"stop", "batch_size"})
    return {**settings, **drawn, "seed": seed}


def write_answers(
    folder: EvaluationDir, candidates: Sequence[Candidate], sets: Sequence[SetPlan], *, seed: int, reporter: Reporter
) -> None:
    """Every model's answers to every set, where they are not there yet: answers/SET/MODEL.jsonl."""
    files = {
        (one.set.name, candidate.name): folder.file(answers_name(one, candidate), answer_settings(candidate, one, seed))
        for candidate in candidates
        for one in sets
    }
    waiting = [c for c in candidates if any(_unfinished(files[one.set.name, c.name], one) for one in sets)]
    bases = _Bases(reporter)
    # Adapters of one base after each other, so that it is loaded once.
    for candidate in sorted(waiting, key=lambda c: (waiting.index(_first_of_base(waiting, c)), waiting.index(c))):
        with bases.acting_as(candidate) as base:
            for one in sets:
                file = files[one.set.name, candidate.name]
                title = f"{candidate.name} on {one.set.name}"
                (_sampled if one.samples else _likelihoods)(base, one, file, title, seed, reporter)


def answers_name(one: SetPlan, candidate: Candidate) -> str:
    """The file of one model's answers to one set."""
    return f"answers/{one.set.name}/{candidate.name}.jsonl"


def _first_of_base(candidates: Sequence[Candidate], own: Candidate) -> Candidate:
    return next(c for c in candidates if c.model == own.model)


def _unfinished(file: Path, one: SetPlan) -> bool:
    if one.samples:
        return len(_answered(file)) < len(one.set.items) * one.samples
    return len({line.item for line in read_lines(file, LikelihoodLine)}) < len(one.set.items)


def _answered(file: Path) -> set[tuple[str, int]]:
    return {(line.item, line.sample) for line in read_lines(file, AnswerLine)}


class _Bases:
    """The base that is loaded now, with an adapter for each model that was asked for."""

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter
        self._key: Any = None
        self._base: SharedBase | None = None

    @contextmanager
    def acting_as(self, candidate: Candidate) -> Iterator[SharedBase]:
        if self._key != candidate.model:
            self._base = None
            self._base = SharedBase(load_model(candidate.model), system_prompt=candidate.model.system_prompt)
            self._key = candidate.model
            for line in self._base.notices:
                self.reporter.warn(line)
        base = self._base
        assert base is not None
        role = "reference"
        if candidate.adapter is not None:
            role = f"model{len(base.roles)}"
            base.load_role(role, candidate.adapter)
            for line in notice_of_another_base(candidate.adapter, base.name):
                self.reporter.warn(line)
        with base.role(role):
            yield base


# --- answers ---------------------------------------------------------------------------------------------------------


def _sampled(base: SharedBase, one: SetPlan, file: Path, title: str, seed: int, reporter: Reporter) -> None:
    """Draw what is missing, a batch a write. All samples of a prompt are in one batch, which reads the prompt once."""
    ids = {item.id: base.prompt_ids(item.prompt) for item in one.set.items}
    room = base.context - one.sampling.max_new_tokens
    short = [item for item in one.set.items if len(ids[item.id]) <= room]
    short.sort(key=lambda item: (len(ids[item.id]), item.id))
    done = _answered(file)
    unasked = [item.id for item in one.set.items if len(ids[item.id]) > room and (item.id, 0) not in done]
    if unasked:
        append_lines(file, [AnswerLine(item, number, None) for item in unasked for number in range(one.samples)])
    together = max(1, one.sampling.batch_size // one.samples)
    chunks = [
        [(item.id, number) for item in short[start : start + together] for number in range(one.samples)]
        for start in range(0, len(short), together)
    ]
    waiting = missing(chunks, done)
    with reporter.track(title, sum(map(len, waiting)) or 1) as tracker:
        count = 0
        for chunk in waiting:
            keys = [f"evaluate\x1f{one.set.name}\x1f{item}\x1f{number}" for item, number in chunk]
            drawn = sample(base, [ids[item] for item, _ in chunk], keys, one.sampling, seed=seed)
            append_lines(
                file,
                [
                    AnswerLine(item, number, base.response_text(answer.ids), len(answer.ids), answer.ended)
                    for (item, number), answer in zip(chunk, drawn, strict=True)
                ],
            )
            count += len(chunk)
            tracker.at(count)


# --- likelihoods -----------------------------------------------------------------------------------------------------


def _likelihoods(base: SharedBase, one: SetPlan, file: Path, title: str, seed: int, reporter: Reporter) -> None:
    """Log-probabilities of every choice given its prompt; an item with a choice beyond the context has none."""
    done = {line.item for line in read_lines(file, LikelihoodLine)}
    waiting = [item for item in one.set.items if item.id not in done]
    with reporter.track(title, len(waiting) or 1) as tracker:
        for start in range(0, len(waiting), 16):
            some = waiting[start : start + 16]
            append_lines(file, _measured(base, some))
            tracker.at(start + len(some))


@torch.no_grad()
def _measured(base: SharedBase, items: Sequence[Item]) -> list[LikelihoodLine]:
    rows: list[tuple[int, Item, str]] = []
    lengths: list[int] = []
    counts: dict[str, list[int]] = {}
    for item in items:
        prompt = len(base.prompt_ids(item.prompt))
        counts[item.id] = [len(_choice_ids(base, text)) for text in item.choices]
        if prompt + max(counts[item.id]) <= base.context:
            for place, text in enumerate(item.choices):
                rows.append((place, item, text))
                lengths.append(prompt + counts[item.id][place])
    found: dict[str, list[float]] = {}
    for chunk in length_chunks([(1, length) for length in lengths]):
        tokens = base.encode(
            [rows[i][1].prompt for i in chunk],
            [_leading(base, rows[i][2]) for i in chunk],
            ended=[False] * len(chunk),
        )
        logprobs, _, _ = base.logprobs(tokens)
        for i, total in zip(chunk, logprobs.sum(1).tolist(), strict=True):
            place, item, _ = rows[i]
            found.setdefault(item.id, [0.0] * len(item.choices))[place] = total
    return [
        LikelihoodLine(item.id, tuple(found[item.id]) if item.id in found else None, tuple(counts[item.id]))
        for item in items
    ]


def _choice_ids(base: SharedBase, text: str) -> list[int]:
    return base.response_ids(_leading(base, text), ended=False)


def _leading(base: SharedBase, text: str) -> str:
    """The answer as it continues what the model reads: after a space where no chat template closes the prompt."""
    plain = base.tokenizer.chat_template is None and not base.model.config.is_encoder_decoder
    return f" {text}" if plain else text


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
