"""Ranking in the terminal: one prompt at a time, its answers shuffled and lettered, no model names.

Every accepted ranking is on the disk before the next prompt is shown, so stopping at any moment loses nothing.
"""

from __future__ import annotations

import hashlib
import random
import time
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from humanward.errors import InputError
from humanward.feedback.files import append_record, drop_torn_line, read_records
from humanward.preferences import current_rankings
from humanward.records import Completion, Prompt, Ranking, content_id

LETTERS = "ABCDEFGHI"
Item = tuple[Prompt, tuple[Completion, ...]]
HELP = """\
Best answer first. Example: b a=c d  (B is best, A and C are equal, D is worst)
  =  between two letters: equally good
  n  none is acceptable; n b a=c d: none is, and this is their order
  s  skip this prompt
  u  back to the previous prompt; what you say there replaces your answer
  q  quit and keep what you ranked
  ?  this help"""


@dataclass(frozen=True)
class Session:
    """How many of the prompts the annotator has ranked, in this session or before, and how many remain."""

    ranked: int
    remaining: int


@dataclass(frozen=True)
class Clock:
    """Where seconds and dates come from; tests give their own."""

    seconds: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = lambda: datetime.now(UTC)


def rank_in_terminal(
    prompts: Iterable[Prompt],
    completions: Iterable[Completion],
    path: Path,
    *,
    annotator: str = "me",
    criterion: str = "overall",
    limit: int | None = None,
    seed: int = 0,
    console: Console | None = None,
    read: Callable[[str], str] | None = None,
    clock: Clock | None = None,
) -> Session:
    """Ask for a ranking of each prompt that ``annotator`` has not ranked, at most ``limit``; append each to ``path``.

    ``read`` shows its argument and returns a line; the end of input quits and keeps. Prompts with a single answer are
    passed over.
    Raises InputError for a prompt with more than nine answers or when there is nothing to rank at all.
    """
    if not annotator.strip():
        raise InputError("annotator: is empty; give a name, so that rankings can be told apart")
    items = rankable(prompts, completions)
    drop_torn_line(path)
    pending = to_do(items, stored_rankings(path), annotator, criterion)[:limit]
    _Session(path, annotator, criterion, seed, console or Console(), read, clock or Clock()).run(pending)
    remaining = len(to_do(items, stored_rankings(path), annotator, criterion))
    return Session(len(items) - remaining, remaining)


def rankable(prompts: Iterable[Prompt], completions: Iterable[Completion]) -> list[Item]:
    """The prompts with two to nine completions; raises InputError for one with more, or when there is none."""
    by_prompt: dict[str, list[Completion]] = {}
    for completion in completions:
        by_prompt.setdefault(completion.prompt_id, []).append(completion)
    items = [(prompt, tuple(by_prompt.get(prompt.id, ()))) for prompt in prompts]
    for prompt, answers in items:
        if len(answers) > len(LETTERS):
            raise InputError(
                f"prompt {prompt.id}: has {len(answers)} completions, but the terminal ranks at most {len(LETTERS)}; "
                "sample fewer for each prompt"
            )
    items = [(prompt, answers) for prompt, answers in items if len(answers) > 1]
    if not items:
        raise InputError("completions: no prompt has two or more; sample at least two completions for each prompt")
    return items


def to_do(items: Sequence[Item], rankings: Iterable[Ranking], annotator: str, criterion: str) -> list[Item]:
    """The items that ``annotator`` has not ranked under ``criterion``."""
    done = {
        (ranking.prompt_id, frozenset(ranking.shown_order or [c for tier in ranking.tiers for c in tier]))
        for ranking in current_rankings(rankings)
        if ranking.annotator == annotator and ranking.criterion == criterion
    }
    return [item for item in items if (item[0].id, frozenset(answer.id for answer in item[1])) not in done]


def stored_rankings(path: Path) -> tuple[Ranking, ...]:
    """The rankings of a file, none when there is no file yet."""
    return tuple(ranking for _, ranking in read_records(path, Ranking)) if path.exists() else ()


def parse_order(text: str, count: int) -> tuple[tuple[int, ...], ...]:
    """``b a=c d`` as tiers of indices for ``count`` lettered answers: ((1,), (0, 2), (3,)).

    Blanks, commas and > between letters mean the same, as does nothing; case is ignored. Raises InputError, one line.
    """
    letters = LETTERS[:count]
    tiers: list[list[int]] = []
    tie = False
    for symbol in text.upper():
        if symbol == "=":
            if tie or not tiers:
                raise InputError("'=' stands between two letters, as in a=b")
            tie = True
        elif symbol.isspace() or symbol in ",>":
            continue
        elif symbol not in letters:
            raise InputError(f"{symbol!r} is none of {letters[0]} to {letters[-1]}; type ? for help")
        else:
            index = letters.index(symbol)
            if any(index in tier for tier in tiers):
                raise InputError(f"{symbol} is named twice; name every answer once")
            if tie:
                tiers[-1].append(index)
            else:
                tiers.append([index])
            tie = False
    if tie:
        raise InputError("'=' stands between two letters, as in a=b")
    named = {index for tier in tiers for index in tier}
    if missing := [letter for index, letter in enumerate(letters) if index not in named]:
        raise InputError(
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing; name every answer once"
        )
    return tuple(tuple(tier) for tier in tiers)


def printable(text: str) -> str:
    """The text without control and direction characters, so that an answer cannot take over the terminal."""
    return "".join(
        c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf") or c in "\u200c\u200d" else "\ufffd"
        for c in text
    )


class _Session:
    """The dialogue; ``live`` holds the prompts of this session that now have a ranking."""

    def __init__(
        self,
        path: Path,
        annotator: str,
        criterion: str,
        seed: int,
        console: Console,
        read: Callable[[str], str] | None,
        clock: Clock,
    ) -> None:
        self.path, self.annotator, self.criterion, self.seed = path, annotator, criterion, seed
        self.console, self.clock = console, clock
        self.read = read or (lambda question: console.input(Text(question)))
        self.live: set[str] = set()

    def run(self, items: Sequence[Item]) -> None:
        position = 0
        while position < len(items):
            prompt, answers = items[position]
            shown = self._shuffled(prompt, answers)
            self._show(prompt, shown, f"{position + 1} of {len(items)}")
            started = self.clock.seconds()
            step = self._ask(prompt, shown, started, first=position == 0)
            if step is None:
                return
            position += step

    def _ask(self, prompt: Prompt, shown: Sequence[Completion], started: float, *, first: bool) -> int | None:
        """How far to move on: 1, -1 after undo, None to quit."""
        while True:
            try:
                line = self.read(f"Your order, best first ({' '.join(LETTERS[: len(shown)])}; ? for help): ").strip()
            except EOFError:
                self.console.print()
                return None
            command = line.lower()
            if command == "q":
                return None
            if command == "?" or not command:
                self.console.print(Text(HELP))
            elif command == "u" and first:
                self._complain("this is the first prompt of the session; there is nothing before it")
            elif command == "u":
                return -1
            elif command == "s":
                self._skip(prompt, shown)
                return 1
            else:
                try:
                    tiers = self._tiers(command, len(shown))
                except InputError as error:
                    self._complain(str(error))
                    continue
                self._keep(prompt, shown, tiers, command.startswith("n"), started)
                return 1

    def _tiers(self, command: str, count: int) -> tuple[tuple[int, ...], ...]:
        if command.startswith("n"):
            return parse_order(command[1:], count) if command[1:].strip() else ()
        return parse_order(command, count)

    def _keep(
        self,
        prompt: Prompt,
        shown: Sequence[Completion],
        tiers: tuple[tuple[int, ...], ...],
        none_acceptable: bool,
        started: float,
    ) -> None:
        created_at = self.clock.now().isoformat(timespec="milliseconds")
        ranking = Ranking(
            id=content_id(prompt.id, self.annotator, self.criterion, created_at, repr((tiers, none_acceptable))),
            prompt_id=prompt.id,
            tiers=tuple(tuple(shown[i].id for i in tier) for tier in tiers),
            annotator=self.annotator,
            none_acceptable=none_acceptable,
            criterion=self.criterion,
            shown_order=tuple(answer.id for answer in shown),
            seconds_spent=round(self.clock.seconds() - started, 1),
            created_at=created_at,
        )
        append_record(self.path, ranking)
        if tiers or none_acceptable:
            self.live.add(prompt.id)

    def _skip(self, prompt: Prompt, shown: Sequence[Completion]) -> None:
        if prompt.id in self.live:
            # A ranking without tiers withdraws the one that undo came back to.
            self._keep(prompt, shown, (), False, self.clock.seconds())
            self.live.remove(prompt.id)

    def _shuffled(self, prompt: Prompt, answers: Sequence[Completion]) -> tuple[Completion, ...]:
        digest = hashlib.sha256(f"{self.seed}\x1f{self.annotator}\x1f{prompt.id}".encode()).digest()
        shown = sorted(answers, key=lambda answer: answer.id)
        random.Random(int.from_bytes(digest[:8], "big")).shuffle(shown)
        return tuple(shown)

    def _show(self, prompt: Prompt, shown: Sequence[Completion], progress: str) -> None:
        self.console.rule(Text(f"Prompt {progress}"))
        for message in prompt.as_messages():
            self.console.print(Text.assemble((f"{message.role}: ", "bold"), printable(message.content)))
        for letter, answer in zip(LETTERS, shown, strict=False):
            text = printable(answer.text) if answer.text.strip() else "(an empty answer)"
            self.console.print(Panel(Text(text), title=Text(letter, style="bold"), title_align="left"))

    def _complain(self, reason: str) -> None:
        self.console.print(Text(reason, style="yellow"))
