"""HH-RLHF transcripts: one text with turns that begin with a blank line and ``Human:`` or ``Assistant:``.

Format of github.com/anthropics/hh-rlhf (Bai et al. 2022, arXiv:2204.05862).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from humanward.errors import InputError
from humanward.records import Message

SPEAKERS = {"Human": "user", "Assistant": "assistant"}
_TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")


def is_transcript(text: str) -> bool:
    """Whether the text begins as a transcript does."""
    return bool(re.match(r"\s*Human:", text))


def parse_transcript(text: str, where: str) -> list[Message]:
    """The turns as written, trimmed of white space at both ends.

    Raises InputError when the text does not begin with a Human turn or a Human turn is empty.
    """
    if not is_transcript(text):
        raise InputError(f"{where}: {text[:40]!r} does not begin with 'Human:'; write a Human/Assistant transcript")
    pieces = _TURN.split(text)[1:]
    turns = [Message(SPEAKERS[s], content.strip()) for s, content in zip(pieces[::2], pieces[1::2], strict=True)]
    for number, turn in enumerate(turns, 1):
        if turn.role == "user" and not turn.content:
            raise InputError(f"{where}: turn {number}, by Human, is empty; write a text or drop the row")
    return turns


def split_pair(
    chosen: Sequence[Message], rejected: Sequence[Message], where: str
) -> tuple[tuple[Message, ...], str, str, bool]:
    """(prompt, chosen answer, rejected answer, whether either answer has several turns) of two conversations.

    The prompt is the longest common beginning that ends with a user turn and that an assistant turn follows on both
    sides; in it, turns in a row by one speaker are joined by a blank line. Normally one assistant turn is left on each
    side; where more are left, as when the prefixes differ, they are all the answer, written as a transcript.
    Raises InputError when the two share no such beginning.
    """
    shared = 0
    while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
        shared += 1
    while shared and not (
        chosen[shared - 1].role == "user" and chosen[shared].role == rejected[shared].role == "assistant"
    ):
        shared -= 1
    if not shared:
        raise InputError(f"{where}: chosen and rejected share no user turn before an assistant turn; drop the row")
    left = chosen[shared:], rejected[shared:]
    return _joined(chosen[:shared]), _answer(left[0]), _answer(left[1]), any(len(turns) > 1 for turns in left)


def render_transcript(messages: Sequence[Message], answer: str) -> str:
    """The transcript of a conversation and its answer; a system message opens the first Human turn."""
    system = "\n\n".join(m.content for m in messages if m.role == "system")
    turns = [m for m in messages if m.role != "system"]
    text = ""
    for index, message in enumerate(turns):
        speaker = "Human" if message.role == "user" else "Assistant"
        content = f"{system}\n\n{message.content}" if system and not index else message.content
        text += f"\n\n{speaker}: {content}"
    return f"{text}\n\nAssistant: {answer}"


def _joined(turns: Sequence[Message]) -> tuple[Message, ...]:
    joined: list[Message] = []
    for turn in turns:
        if joined and joined[-1].role == turn.role:
            both = "\n\n".join(part for part in (joined[-1].content, turn.content) if part)
            joined[-1] = Message(turn.role, both)
        else:
            joined.append(turn)
    return tuple(joined)


def _answer(turns: Sequence[Message]) -> str:
    first, rest = turns[0], turns[1:]
    speakers = {role: speaker for speaker, role in SPEAKERS.items()}
    return first.content + "".join(f"\n\n{speakers.get(m.role, m.role)}: {m.content}" for m in rest)
