"""Warnings: the signs of a run that goes wrong without diverging. Pure functions of what was logged."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

#: How many logged steps in a row must show a sign.
PATIENCE = 10
_CRITIC_WON = 0.02
_FLAT = 0.05
_COLLAPSED = 0.1


def vanishing(history: Sequence[Mapping[str, float]]) -> str | None:
    """The critic's losses at zero while the generator's is flat: the generator learns nothing any more."""
    if any(max(abs(logged["loss/real"]), abs(logged["loss/fake"])) > _CRITIC_WON for logged in history):
        return None
    generator = [logged["loss/generator"] for logged in history]
    if max(generator) - min(generator) > _FLAT * max(abs(max(generator)), 1e-6):
        return None
    return f"the critic's losses are below {_CRITIC_WON} and the generator's is flat: its gradient has vanished"


def collapsed(history: Sequence[Mapping[str, float]]) -> str | None:
    """Generated images that hardly differ from each other."""
    highest = max(logged["diversity"] for logged in history)
    if highest > _COLLAPSED:
        return None
    return f"generated images differ {highest:.0%} as much as real ones do: the generator may have collapsed"


class Monitor:
    """Looks at every logged step; says each warning once while its sign lasts."""

    def __init__(self) -> None:
        self._history: deque[Mapping[str, float]] = deque(maxlen=PATIENCE)
        self._warned: set[str] = set()

    def look(self, logged: Mapping[str, float]) -> list[str]:
        """New warnings after one more logged step."""
        self._history.append(logged)
        if len(self._history) < PATIENCE:
            return []
        warnings = []
        for rule in (vanishing, collapsed):
            text = rule(self._history)
            if text is None:
                self._warned.discard(rule.__name__)
            elif rule.__name__ not in self._warned:
                self._warned.add(rule.__name__)
                warnings.append(text)
        return warnings
