"""Whether a candidate takes the champion's place: a pure decision, with its reason in words."""

from __future__ import annotations

import math
from typing import NamedTuple

from pipelines.exit_codes import ExitCode
from pipelines.quality.figures import Figures
from pipelines.quality.promotion_policy import Policy


class Decision(NamedTuple):
    """PROMOTED, HELD or REJECTED, and why."""

    result: ExitCode
    reason: str


class NotComparableError(ValueError):
    """Figures of different evaluations; its text is the one line to show."""


def decide(candidate: Figures, champion: Figures | None, policy: Policy) -> Decision:
    """Whether `candidate` is to be the champion.

    The first one has nothing to be compared with: it has to be sound, and no worse than the policy asks for.

    Raises:
        NotComparableError: the figures are of different evaluations.
    """
    if champion is not None and champion.fingerprint != candidate.fingerprint:
        raise NotComparableError(
            f"the candidate was evaluated as {candidate.fingerprint}, the champion as {champion.fingerprint}: "
            "evaluate both alike (same data set version, feature network and samples)"
        )
    if fault := _fault(candidate, policy):
        return Decision(ExitCode.REJECTED, fault)
    if champion is None:
        return _first(candidate, policy)
    if fault := _fault(champion, policy):
        return Decision(ExitCode.PROMOTED, f"the champion is no longer sound on this data: {fault}")
    return _compare(candidate, champion, policy)


def _fault(measured: Figures, policy: Policy) -> str | None:
    """What disqualifies a model whatever else is good about it."""
    for name, value in measured.figures.items():
        if not math.isfinite(value):
            return f"{name} is {value}"
    limits = {
        "recall": policy.least_recall, "coverage": policy.least_coverage, "class_coverage": policy.least_class_coverage,
    }  # fmt: skip
    for name, least in limits.items():
        found = measured.figures.get(name)
        if found is not None and found < least:
            return f"collapsed: {name} {found:.3f} is below {least:g}"
    return None


def _first(candidate: Figures, policy: Policy) -> Decision:
    bars = {"KID": (candidate.kid, policy.first_kid), "FID": (candidate.fid, policy.first_fid)}
    for name, (found, most) in bars.items():
        if most is not None and found > most:
            option = f"promotion.first_{name.lower()}={most:g}"
            return Decision(
                ExitCode.HELD, f"there is no champion yet, and {name} {found:.4g} is not good enough for one: {option}"
            )
    told = f"it has KID {candidate.kid:.4g} and FID {candidate.fid:.4g}"
    return Decision(ExitCode.PROMOTED, f"there is no champion yet, so this is the first: {told}")


def _compare(candidate: Figures, champion: Figures, policy: Policy) -> Decision:
    gain = champion.kid - candidate.kid
    error = math.hypot(candidate.kid_error, champion.kid_error)
    told = f"KID {candidate.kid:.4g} against {champion.kid:.4g}, {gain:+.2g} better, standard error {error:.2g}"
    if not gain > policy.errors * error:
        return Decision(ExitCode.HELD, f"not clearly better: {told}, {policy.errors:g} of which are asked for")
    if candidate.fid > champion.fid * (1 + policy.fid_slack):
        return Decision(ExitCode.HELD, f"{told}, but FID {candidate.fid:.4g} is worse than {champion.fid:.4g}")
    return Decision(ExitCode.PROMOTED, f"better: {told}; FID {candidate.fid:.4g} against {champion.fid:.4g}")
