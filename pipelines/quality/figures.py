"""What an evaluation finds: figures, and what they may be compared with."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

#: In which direction a figure is better, if not upwards; none, if it says nothing of quality.
BETTER = {"fid": "lower", "kid": "lower", "kid_error": "", "inception_score_deviation": ""}


class Figures(BaseModel):
    """What an evaluation found.

    Attributes:
        fingerprint: of the evaluation; figures of different ones are never compared.
        samples: generated images.
        real: real ones, where all of them were asked for; else as many, None.
        features: names the feature network; None in figures of a time before it was noted.
        fid: Fréchet distance (Heusel et al. 2017); 0 for equal means and covariances.
        kid, kid_error: squared MMD with the cubic kernel (Binkowski et al. 2018) and its standard error.
        precision, recall: Kynkäänniemi et al. 2019.
        density, coverage: Naeem et al. 2020.
        class_coverage: the share of classes that are generated; None where the features know no classes.
        inception_score, inception_score_deviation: Salimans et al. 2016, over ten splits, in ImageNet's classes; None
            where the features know none of them, and in figures of a time before it was measured.
    """

    model_config = ConfigDict(frozen=True, ser_json_inf_nan="strings")

    fingerprint: str
    samples: int
    real: int | None = None
    features: str | None = None
    fid: float
    kid: float
    kid_error: float
    precision: float
    recall: float
    density: float
    coverage: float
    class_coverage: float | None = None
    inception_score: float | None = None
    inception_score_deviation: float | None = None

    @property
    def figures(self) -> dict[str, float]:
        """The numbers by name, without what is not known."""
        found = self.model_dump(exclude={"fingerprint", "samples", "real", "features"})
        return {name: value for name, value in found.items() if value is not None}

    @property
    def counted(self) -> str:
        """How many images were compared, in words."""
        if self.real is None:
            return f"{self.samples:,} images on each side"
        return f"{self.samples:,} generated images and all {self.real:,} real ones"


def table(columns: Mapping[str, Figures]) -> list[str]:
    """Figures side by side in Markdown, those of the first column, by the columns' titles; none where one lacks it."""
    first = next(iter(columns.values()))
    head = ["| figure | better is |" + "".join(f" {title} |" for title in columns), "|---|---|" + "---|" * len(columns)]
    return head + [
        f"| {name} | {BETTER.get(name, 'higher')} |"
        + "".join(f" {_shown(measured.figures.get(name))} |" for measured in columns.values())
        for name in first.figures
    ]


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
