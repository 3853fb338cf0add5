"""R2: the critic's gradient at generated images (Mescheder et al. 2018, arXiv:1801.04406).

R3GAN (Huang et al. 2024, arXiv:2501.05441) has it beside R1, both at every step.
"""

from __future__ import annotations

from typing import ClassVar

from service.losses.regularizers import Place
from service.losses.regularizers.r1 import R1


class R2(R1):
    """``weight / 2 |gradient|^2`` at generated images; its options are R1's."""

    place: ClassVar[Place] = "fake"
