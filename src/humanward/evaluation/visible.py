"""Text from models and users, made safe to store and to show: nothing invisible, nothing that UTF-8 cannot hold."""

from __future__ import annotations

import re

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufffe\uffff]")


def visible(text: str) -> str:
    """The text with each control character shown as a picture of it (U+2400 block) or as U+FFFD.

    Covers C0 and C1 controls but tab and line ends, embeddings, overrides and isolates of the bidirectional algorithm
    (which could turn the words after them round) and lone surrogates. A carriage return becomes a line end.
    """
    return _CONTROL.sub(_picture, text.replace("\r\n", "\n").replace("\r", "\n"))


def _picture(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else "\ufffd"
