"""What an evaluation finds: figures, and what they may be compared with."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

#: In which direction a figure is better, if not upwards; none, if it says nothing of quality.
BETTER = {"fid": "lower", "kid": "lower", "kid_error": ""}


class Figures(BaseModel):
    """What an evaluation found.

    Attributes:
        fingerprint: of the evaluation; figures of different ones are never compared.
        samples: images on each side.
        fid: Fréchet distance (Heusel et al. 2017); 0 for equal means and covariances.
        kid, kid_error: squared MMD with the cubic kernel (Binkowski et al. 2018) and its standard error.
        precision, recall: Kynkäänniemi et al. 2019.
        density, coverage: Naeem et al. 2020.
        class_coverage: the share of classes that are generated; None where the features know no classes.
    """

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")

    fingerprint: str
    samples: int
    fid: float
    kid: float
    kid_error: float
    precision: float
    recall: float
    density: float
    coverage: float
    class_coverage: float | None = None

    @property
    def figures(self) -> dict[str, float]:
        """The numbers by name, without what is not known."""
        found = self.model_dump(exclude={"fingerprint", "samples"})
        return {name: value for name, value in found.items() if value is not None}


def table(columns: Mapping[str, Figures]) -> list[str]:
    """Figures side by side in Markdown, those of the first column, by the columns' titles."""
    first = next(iter(columns.values()))
    head = ["| figure | better is |" + "".join(f" {title} |" for title in columns), "|---|---|" + "---|" * len(columns)]
    return head + [
        f"| {name} | {BETTER.get(name, 'higher')} |"
        + "".join(f" {measured.figures[name]:.4g} |" for measured in columns.values())
        for name in first.figures
    ]
