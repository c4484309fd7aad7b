"""Why the store refuses something: an InputError that also knows its HTTP status and a stable code."""

from __future__ import annotations

from humanward.errors import InputError


class RefusedError(InputError):
    """One line for a person; ``code`` is stable for programs, ``field`` names the offending value, if any."""

    def __init__(self, status: int, code: str, message: str, field: str = "") -> None:
        super().__init__(message)
        self.status, self.code, self.field = status, code, field


def not_found(what: str, name: object) -> RefusedError:
    """404; also for what the asker may not see, so that nothing is learnt about other projects."""
    return RefusedError(404, "not_found", f"{what} {name}: there is none that you may see; check the address")


def forbidden(message: str) -> RefusedError:
    """403."""
    return RefusedError(403, "forbidden", message)


def conflict(code: str, message: str) -> RefusedError:
    """409."""
    return RefusedError(409, code, message)


def invalid(field: str, message: str, code: str = "invalid") -> RefusedError:
    """422; ``message`` starts with the field."""
    return RefusedError(422, code, f"{field}: {message}", field)
