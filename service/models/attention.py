"""Self-attention over an image's pixels (SAGAN: Zhang et al. 2018, arXiv:1805.08318)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Queries and keys have an eighth of the channels, and values half of them.
_KEYS, _VALUES = 8, 2


class SelfAttention(nn.Module):
    """``x + gain * W_o (softmax(q^T k) v)``: every pixel looks at all others, and the gain starts at zero.

    Source: brain-research/self-attention-gan, which takes keys and values of the largest of 2x2 pixels. Its paper has
    keys and values of all pixels, and no products before the sum.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        keys, values = max(1, channels // _KEYS), max(1, channels // _VALUES)
        self.query = nn.Conv2d(channels, keys, 1, bias=False)
        self.key = nn.Conv2d(channels, keys, 1, bias=False)
        self.value = nn.Conv2d(channels, values, 1, bias=False)
        self.attend = Attend()
        self.output = nn.Conv2d(values, channels, 1, bias=False)
        self.gain = nn.Parameter(torch.zeros(1, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same; 2 divides H and W."""
        count, channels, height, width = x.shape
        keys, values = (_largest(layer(x)).flatten(2) for layer in (self.key, self.value))
        found = self.attend(self.query(x).flatten(2), keys, values)
        added = self.output(found.view(count, found.shape[1], height, width))
        # As the product of rows and a weight that it is: these have their sums over rows taken in one order.
        scaled = F.conv2d(added.reshape(count, 1, channels * height, width), self.gain)
        looked: Tensor = x + scaled.view(x.shape)
        return looked


def _largest(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C, H / 2, W / 2): of 2x2 pixels. torch_xla's max_pool2d has no gradient of a gradient."""
    count, channels, height, width = x.shape
    return x.reshape(count, channels, height // 2, 2, width // 2, 2).amax((3, 5))


class Attend(nn.Module):
    """What pixels find that look at others: the mean of values, weighted by how well keys go with queries."""

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """(N, K, P), (N, K, M) and (N, V, M) -> (N, V, P)."""
        weights = torch.bmm(queries.transpose(1, 2), keys).softmax(2)
        found: Tensor = torch.bmm(values, weights.transpose(1, 2))
        return found
