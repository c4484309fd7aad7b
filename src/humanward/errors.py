"""The one exception that a user is meant to read."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input: one line with the thing, the value, the rule and the remedy.

    The command line prints the message without a traceback and exits with code 2.
    """
