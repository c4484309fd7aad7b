"""The one exception that a user is meant to read."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class InputError(ValueError):
    """Bad input: one line with the thing, the value, the rule and the remedy.

    The command line prints the message without a traceback and exits with code 2.
    """


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """A full disk, or a place that cannot be written, becomes an InputError that names ``path``."""
    try:
        yield
    except Exception as error:
        # safetensors reports what the system said inside its own message.
        number = re.search(r"\(os error (\d+)\)", str(error))
        code = error.errno if isinstance(error, OSError) else int(number[1]) if number else None
        if code in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(f"{path}: no space left on the disk; free some and run the same command again") from error
        if code in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise InputError(
                f"{path}: not writable by this user; change its permissions or choose another place"
            ) from error
        if code in (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOENT, errno.ENAMETOOLONG):
            reason = error.strerror if isinstance(error, OSError) else "not a place for a file"
            raise InputError(f"{path}: cannot be written ({reason}); choose another place") from error
        raise
