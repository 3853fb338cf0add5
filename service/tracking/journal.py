"""A journal of what a run reports, on the local disk, so that a lost tracking server loses nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class Journal:
    """An append-only file of JSON lines, and the number of them that have been delivered.

    A line that was cut short when a process died is dropped: what it said will be said again.
    """

    def __init__(self, file: Path) -> None:
        self._file, self._mark = file, file.with_suffix(".delivered")
        file.parent.mkdir(parents=True, exist_ok=True)
        self.entries: list[dict[str, Any]] = []
        if file.exists():
            self._read(file.read_bytes())
        self.delivered = min(int(self._mark.read_text() or 0), len(self.entries)) if self._mark.exists() else 0

    def append(self, entry: dict[str, Any]) -> None:
        """Note an entry; it is on disk when this returns."""
        with self._file.open("a") as stream:
            stream.write(json.dumps(entry) + "\n")
        self.entries.append(entry)

    def pending(self) -> list[dict[str, Any]]:
        """Entries that have not been delivered, oldest first."""
        return self.entries[self.delivered :]

    def deliver(self, count: int) -> None:
        """The oldest `count` pending entries have been delivered."""
        self.delivered += count
        self._mark.write_text(str(self.delivered))

    def _read(self, content: bytes) -> None:
        complete, _, rest = content.rpartition(b"\n")
        self.entries = [json.loads(line) for line in complete.splitlines()]
        if rest:
            self._file.write_bytes(complete + b"\n" if complete else b"")
