"""An alarm: what was seen, what likely causes it, what helps."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Alarm:
    """Something that a healthy run does not show: its name, what was seen, likely causes, what to do."""

    name: str
    seen: str
    causes: str
    remedy: str

    @property
    def line(self) -> str:
        """For a person, in one line."""
        return f"{self.seen}: {self.causes}; {self.remedy}"
