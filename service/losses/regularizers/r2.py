"""R2: the critic's gradient at generated images (Mescheder et al. 2018, arXiv:1801.04406).

R3GAN (Huang et al. 2024, arXiv:2501.05441) has it beside R1, both at every step.
"""

from __future__ import annotations

from torch import Tensor

from service.losses.regularizers import Critic
from service.losses.regularizers.r1 import R1
from service.replicas.global_batch import GlobalBatch
from service.tasks import View


class R2(R1):
    """``weight / 2 |gradient|^2`` at generated images; its options are R1's."""

    def penalty(self, critic: Critic, fake: View, real: View, batch: GlobalBatch) -> Tensor:
        return self.at(critic, fake, batch)
