"""The options of promotion: what a candidate must be. `pipelines.promote.decision` decides by them."""

from __future__ import annotations

from pydantic import Field

from pipelines.components import Options


class Policy(Options):
    """What a candidate must be."""

    errors: float = Field(
        2.0, ge=0, description="how far below the champion's its KID must be, in standard errors of the difference"
    )
    fid_slack: float = Field(
        0.05, ge=0, description="how far above the champion's its FID may be, as a share of the champion's"
    )
    least_recall: float = Field(0.05, ge=0, le=1, description="reject a model whose recall is below this")
    least_coverage: float = Field(0.05, ge=0, le=1, description="reject a model whose coverage is below this")
    least_class_coverage: float = Field(
        0.5, ge=0, le=1, description="reject a model that generates a smaller share of the classes, if they are known"
    )
    first_kid: float | None = Field(
        None, description="while there is no champion, hold a model whose KID is above this"
    )
    first_fid: float | None = Field(
        None, description="while there is no champion, hold a model whose FID is above this"
    )
