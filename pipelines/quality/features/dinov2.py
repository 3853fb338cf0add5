"""DINOv2's class token, as FD-DINOv2 is taken of it (Stein et al. 2023): its weights are the user's to provide."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from pipelines.components import ConfigError, first_line
from pipelines.quality.features import Extractor, FeatureNetwork, Features, Reference, weights_at
from pipelines.quality.resizing import bicubic

_URL = "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth"
_CACHE = "~/.cache/torch/hub/checkpoints/dinov2_vitl14_pretrain.pth"
_SIDE, _PATCH, _HEAD = 224, 14, 64
_EPSILON = 1e-6
#: Of ImageNet's pixels in [0, 1], by channel.
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: DINOv2 (dinov2/models/vision_transformer.py) asks for so much more of a patch when it resizes its positions.
_MORE = 0.1


class Dinov2(FeatureNetwork):
    """1024 features of ViT-L/14, by dgm-eval's protocol: Pillow's bicubic to 224 pixels. Nothing is downloaded.

    The file is DINOv2's authors' own. Their ViT-S/14 and ViT-B/14 are read too; figures of another size, or of the
    networks with registers, which are refused, are not those that others report.
    """

    weights: str = Field(_CACHE, description=f"file or URI of {_URL}")

    def open(self, reference: Reference, tell: Callable[[str], None]) -> tuple[Extractor, str]:
        content = weights_at(self.weights, _URL)
        try:
            network = _VisionTransformer(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True))
        except Exception as error:  # Readers have errors of their own, and other files other things in them.
            raise ConfigError(
                f"features.weights: {self.weights} is no DINOv2 without registers ({first_line(error)}): fetch {_URL}"
            ) from error
        return network.eval().requires_grad_(False), f"dinov2-{hashlib.sha256(content).hexdigest()[:16]}"


class _VisionTransformer(nn.Module):
    """DINOv2's network (Oquab et al. 2024) in torch's layers.

    Each branch of a block is scaled before it is added; the scales are taken into its last layer's weights.

    Args:
        weights: by DINOv2's names.

    Raises:
        ValueError: they are not all that the network has, and no others.
        RuntimeError: their shapes do not fit.
    """

    first: Tensor
    positions: Tensor
    mean: Tensor
    deviation: Tensor

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        left = {name: tensor.float() for name, tensor in weights.items() if name != "mask_token"}
        first, positions = left.pop("cls_token"), left.pop("pos_embed")
        depth = len({name.split(".")[1] for name in left if name.startswith("blocks.")})
        width, inner = first.shape[2], len(left["blocks.0.mlp.fc1.bias"])
        with torch.device("meta"):
            self.patches = nn.Conv2d(3, width, _PATCH, _PATCH)
            block = nn.TransformerEncoderLayer(
                width, width // _HEAD, inner, 0.0, "gelu", _EPSILON, batch_first=True, norm_first=True
            )
            last = nn.LayerNorm(width, _EPSILON)
            self.blocks = nn.TransformerEncoder(block, depth, last, enable_nested_tensor=False)
        encoder = {name: left.pop(name) for name in ("norm.weight", "norm.bias")}
        for number in range(depth):
            encoder |= {f"layers.{number}.{name}": tensor for name, tensor in _block(left, f"blocks.{number}.").items()}
        self.blocks.load_state_dict(encoder, assign=True)
        patches = {kind: left.pop(f"patch_embed.proj.{kind}") for kind in ("weight", "bias")}
        self.patches.load_state_dict(patches, assign=True)
        if left:
            raise ValueError(f"it has {', '.join(sorted(left)[:3])} as well")
        self.register_buffer("first", first + positions[:, :1])
        self.register_buffer("positions", _resized(positions[:, 1:], _SIDE // _PATCH))
        self.register_buffer("mean", torch.tensor(_MEAN).view(3, 1, 1))
        self.register_buffer("deviation", torch.tensor(_DEVIATION).view(3, 1, 1))

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Features:
        pixels = (bicubic(images, _SIDE).expand(-1, 3, -1, -1) / 255 - self.mean) / self.deviation
        tokens = self.patches(pixels).flatten(2).transpose(1, 2) + self.positions
        tokens = torch.cat([self.first.expand(len(images), -1, -1), tokens], 1)
        values: Tensor = self.blocks(tokens)[:, 0]
        return Features(values, torch.full((len(values),), -1, device=values.device))


def _block(left: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """A block's weights by torch's names, taken from what is left by DINOv2's."""

    def take(name: str) -> Tensor:
        return left.pop(prefix + name)

    scales = {"attn.proj": take("ls1.gamma"), "mlp.fc2": take("ls2.gamma")}
    names = {"attn.proj": "self_attn.out_proj", "mlp.fc1": "linear1", "mlp.fc2": "linear2"}
    found = {f"self_attn.in_proj_{kind}": take(f"attn.qkv.{kind}") for kind in ("weight", "bias")}
    for kind in ("weight", "bias"):
        found |= {f"{norm}.{kind}": take(f"{norm}.{kind}") for norm in ("norm1", "norm2")}
        for theirs, name in names.items():
            tensor = take(f"{theirs}.{kind}")
            scale = scales.get(theirs, torch.ones(1))
            found[f"{name}.{kind}"] = tensor * (scale[:, None] if kind == "weight" else scale)
    return found


def _resized(positions: Tensor, count: int) -> Tensor:
    """(1, N * N, D) -> (1, count * count, D), of the patches of an image of another size, as DINOv2 does it."""
    side = math.isqrt(positions.shape[1])
    if side == count:
        return positions
    grid = positions.unflatten(1, (side, side)).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, scale_factor=(count + _MORE) / side, mode="bicubic")
    return grid.flatten(2).transpose(1, 2)
