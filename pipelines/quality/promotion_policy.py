"""The options of promotion: what a candidate must be. `pipelines.promote.decision` decides by them."""

from __future__ import annotations

from pydantic import Field

from pipelines.components import Options


class Policy(Options):
    """What a candidate must be."""

    errors: float = Field(2.0, ge=0, description="standard errors by which a candidate's KID must be lower")
    fid_slack: float = Field(0.05, ge=0, description="share by which its FID may be higher all the same")
    least_recall: float = Field(0.05, ge=0, le=1, description="below, it has collapsed")
    least_coverage: float = Field(0.05, ge=0, le=1, description="below, it has collapsed")
    least_class_coverage: float = Field(0.5, ge=0, le=1, description="below, it has collapsed; where classes are known")
