"""Who was champion when: a row of numbered entries, of which one promoter at most can write the next.

MLflow sets an alias without a look at what it was, so two promoters that set it at once could leave the worse model.
Here the next entry is created only if nobody else has (an atomic create, on disks and on S3), by one who has compared
with the entry before; the alias then follows the last entry.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Literal

from pydantic import BaseModel, ConfigDict

from pipelines.storage.location import Location

_ENTRY = re.compile(r"(\d{6})\.json")


class Reign(BaseModel):
    """One entry.

    Attributes:
        version: of the model that is champion from here on.
        how: promoted by its figures, by a person (here or in MLflow's interface), or set again.
    """

    model_config = ConfigDict(frozen=True)

    number: int
    version: str
    how: Literal["figures", "person", "rollback"]
    reason: str
    seconds: float


class Succession:
    """The champions of one registered model. People go back to one of old by a rollback, not by the alias.

    Args:
        folder: where the entries lie; the same for everybody who promotes this model.
        point: lets MLflow's alias stand for a version.
        pointed: the version that it stands for now, if any.
    """

    def __init__(self, folder: Location, point: Callable[[str], None], pointed: Callable[[], str | None]) -> None:
        self._folder, self._point, self._pointed = folder, point, pointed

    def reigns(self) -> list[Reign]:
        """All entries, oldest first."""
        names = sorted(file.name for file in self._folder.files() if _ENTRY.fullmatch(file.name))
        return [Reign.model_validate_json((self._folder / name).read()) for name in names]

    def current(self) -> Reign | None:
        """The champion now: of the last entry, or whom a person has set since in MLflow's interface."""
        reigns = self.reigns()
        if not reigns:
            return self._adopted([])
        if not (self._folder / _settled(reigns[-1].number)).exists():  # Its promoter was killed, or is at it.
            self._settle()
            return self.reigns()[-1]
        return self._adopted(reigns)

    def follow(
        self, before: Reign | None, version: str, how: Literal["figures", "person", "rollback"], reason: str
    ) -> bool:
        """Make `version` the champion after `before`; False if somebody else came after that first."""
        number = before.number + 1 if before else 1
        reign = Reign(number=number, version=version, how=how, reason=reason, seconds=time.time())
        if not (self._folder / f"{number:06}.json").create(reign.model_dump_json(indent=1).encode()):
            return False
        self._settle()
        return True

    def former(self) -> Reign | None:
        """The champion before the present one; who was rolled back from is not one."""
        line: list[Reign] = []
        for reign in self.reigns():
            if reign.how == "rollback":
                while line and line[-1].version != reign.version:
                    line.pop()
            elif not line or line[-1].version != reign.version:
                line.append(reign)
        return line[-2] if len(line) > 1 else None

    def _adopted(self, reigns: list[Reign]) -> Reign | None:
        """Take note of whom a person has set. A version of old is none: a slow promoter's request may arrive late."""
        pointed = self._pointed()
        last = reigns[-1] if reigns else None
        if pointed is None or (last is not None and pointed == last.version):
            return last
        if last is not None and pointed in {reign.version for reign in reigns}:
            self._settle()
        else:
            self.follow(last, pointed, "person", "the alias was set in MLflow")
        return self.reigns()[-1]

    def _settle(self) -> None:
        """Let the alias follow the last entry, and whatever comes while it does."""
        last = self.reigns()[-1]
        while True:
            self._point(last.version)
            (self._folder / _settled(last.number)).create(b"")
            newest = self.reigns()[-1]
            if newest.number == last.number:
                return
            last = newest


def _settled(number: int) -> str:
    return f"{number:06}.settled"
