"""Figures of other people's packages on the same images, beside ours; run by the Python of an environment of their own.

``pip install -r benchmarks/figures_of_others.txt``, then ``python -m benchmarks.figures_of_others [IMAGES]`` in the
project's folder. The networks' weights are drawn: arithmetic does not ask what was learnt. Distances are of few
features, as those of fewer images than features are known but roughly, by anybody's arithmetic.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from pathlib import Path
from typing import Any

import cleanfid.fid
import cleanfid.resize
import numpy as np
import torch
import torch_fidelity
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torchvision import transforms

from pipelines.data.images import Transform
from pipelines.data.ingest import ingest
from pipelines.data.sources.digits import Digits
from pipelines.loading.loader import open_loader
from pipelines.quality.features import Extractor, Features, Reference
from pipelines.quality.features.dinov2 import Dinov2
from pipelines.quality.features.inception import Inception
from pipelines.quality.metrics import fid, inception_score, kid
from pipelines.quality.resizing import bicubic
from pipelines.storage.location import Location

SIZES = [(28, 28), (32, 32), (64, 64), (128, 128), (256, 256), (500, 333)]


class DrawnInception(FeatureExtractorInceptionV3):  # type: ignore[misc]
    """Keeps the weights that it draws."""

    def load_state_dict(self, *_: object, **__: object) -> None:
        """Of a file, nothing is taken."""


def tell(what: str, ours: float, theirs: float) -> None:
    print(f"{what:<66}{ours:>12.6g}{theirs:>12.6g}{abs(ours - theirs) / max(abs(theirs), 1e-12):>10.1e}", flush=True)


def resizing() -> None:
    """The largest difference of any pixel, of 0 to 255."""
    dgm_eval = transforms.Compose(
        [transforms.Resize((224, 224), transforms.InterpolationMode.BICUBIC), transforms.ToTensor()]
    )
    clean = cleanfid.resize.build_resizer("clean")
    for size in SIZES:
        images = np.random.default_rng(0).integers(0, 256, (8, *size, 3), dtype=np.uint8)
        ours = torch.from_numpy(images).permute(0, 3, 1, 2)
        theirs = torch.from_numpy(np.stack([clean(image) for image in images])).permute(0, 3, 1, 2)
        apart = float((bicubic(ours.float(), 299).clamp(0, 255) - theirs).abs().max())
        seen = torch.stack([dgm_eval(Image.fromarray(image)) for image in images])
        bytes_apart = float((bicubic(ours, 224) / 255 - seen).abs().max()) * 255
        print(f"resized from {size[0]}x{size[1]}: clean-fid's by at most {apart:g}, dgm-eval's by {bytes_apart:g}")


def written(images: Tensor, folder: Path) -> Path:
    """Images as PNG files."""
    folder.mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image[0].numpy()).convert("RGB").save(folder / f"{number:06}.png")
    return folder


def seen(network: Extractor, images: Tensor) -> Features:
    parts = [Features(*network(part)) for part in images.split(32)]
    logits = [part.logits for part in parts if part.logits is not None]
    values = torch.cat([part.values for part in parts])
    return Features(values, torch.full((len(values),), -1), torch.cat(logits) if logits else None)


def inception(reference: Reference, sides: tuple[Tensor, Tensor], folder: Path) -> None:
    """FID by clean-fid, and FID, KID and Inception score by torch-fidelity, of the same files."""
    layer, last = "64", "MaxPool_1"
    torch.save({}, folder / "none.pth")
    torch.manual_seed(0)
    drawn = DrawnInception("inception", ["2048"], feature_extractor_weights_path=str(folder / "none.pth"))
    for module in drawn.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)  # So that images do not fade on their way.
    torch.nn.init.normal_(drawn.fc.weight)  # So that classes are told apart.
    weights = folder / "inception.pth"
    torch.save(drawn.state_dict(), weights)
    given: dict[str, Any] = {"weights": str(weights), "sha256": hashlib.sha256(weights.read_bytes()).hexdigest()}
    folders = [written(side, folder / name) for side, name in zip(sides, ("real", "made"), strict=True)]

    def of_resized(pixels: Tensor) -> Tensor:
        """torch-fidelity's network takes bytes, and clean-fid's images are none: its blocks, one after the other."""
        values = (pixels - 128) / 128
        for name, block in drawn.named_children():
            values = block(values)
            if name == last:
                break
        return values.mean((2, 3))

    network, _ = Inception.model_validate({**given, "layer": layer, "resize": "clean"}).open(reference, print)
    real, made = (seen(network, side) for side in sides)
    theirs = cleanfid.fid.compare_folders(
        *map(str, folders), of_resized, "clean", batch_size=32, device=torch.device("cpu"), verbose=False
    )
    tell("FID, resize=clean; clean-fid's compare_folders", fid(real.values, made.values), float(theirs))

    network, _ = Inception.model_validate({**given, "layer": layer}).open(reference, print)
    real, made = (seen(network, side) for side in sides)
    found = torch_fidelity.calculate_metrics(
        input1=str(folders[1]), input2=str(folders[0]), cuda=False, fid=True, kid=True, isc=True, batch_size=32,
        save_cpu_ram=True, kid_subsets=100, kid_subset_size=len(sides[0]) // 4, samples_shuffle=False, verbose=False,
        feature_extractor_weights_path=str(weights), cache=False, feature_layer_fid=layer, feature_layer_kid=layer,
    )  # fmt: skip
    tell(
        "FID, resize=tensorflow; torch-fidelity's", fid(real.values, made.values), found[torch_fidelity.KEY_METRIC_FID]
    )
    network, _ = Inception.model_validate(given).open(reference, print)
    logits = seen(network, sides[1]).logits
    assert logits is not None
    ours = inception_score(logits)
    tell("Inception score; torch-fidelity's", ours.value, found[torch_fidelity.KEY_METRIC_ISC_MEAN])
    tell("its deviation; torch-fidelity's", ours.deviation, found[torch_fidelity.KEY_METRIC_ISC_STD])
    apart = kid(real.values, made.values)
    told = f"KID, disjoint blocks (error {apart.error:.1e}); torch-fidelity's, random ones"
    tell(told, apart.value, found[torch_fidelity.KEY_METRIC_KID_MEAN])


def dinov2(reference: Reference, sides: tuple[Tensor, Tensor], folder: Path) -> None:
    """FD-DINOv2 of a narrow network: timm's, with the positions that DINOv2's code makes of 37x37."""
    torch.manual_seed(0)
    sizes = {"patch_size": 14, "embed_dim": 128, "depth": 12, "num_heads": 2, "init_values": 0.1, "num_classes": 0}
    large, small = (VisionTransformer(img_size=size, **sizes).eval() for size in (518, 224))
    torch.nn.init.normal_(large.pos_embed)
    weights = large.state_dict()
    torch.save({**weights, "mask_token": torch.zeros(1, 128)}, folder / "dinov2.pth")
    grid = weights["pos_embed"][:, 1:].reshape(1, 37, 37, -1).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(grid, scale_factor=(16.1 / 37, 16.1 / 37), mode="bicubic")
    positions = torch.cat([weights["pos_embed"][:, :1], grid.flatten(2).transpose(1, 2)], 1)
    small.load_state_dict({**weights, "pos_embed": positions})
    network, _ = Dinov2(weights=str(folder / "dinov2.pth")).open(reference, print)
    mine = [seen(network, side).values for side in sides]
    prepared = transforms.Compose([
        transforms.Resize((224, 224), transforms.InterpolationMode.BICUBIC), transforms.ToTensor(),
        transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ])  # fmt: skip
    with torch.inference_mode():
        theirs = [
            torch.cat([small(torch.stack([prepared(picture(image)) for image in part])) for part in side.split(32)])
            for side in sides
        ]
    apart = max(float((one - other).abs().max()) for one, other in zip(mine, theirs, strict=True))
    print(f"DINOv2's features: by at most {apart:.1e}, where they are {float(theirs[0].abs().max()):.1f} at most")
    distance = cleanfid.fid.fid_from_feats(*(side.double().numpy() for side in theirs))
    tell("FD-DINOv2; timm's network, clean-fid's distance", fid(*mine), distance)


def picture(image: Tensor) -> Image.Image:
    """As dgm-eval opens one."""
    return Image.fromarray(image[0].numpy()).convert("RGB")


def digits(reference: Reference, count: int) -> tuple[Tensor, Tensor]:
    """Digits, and as many others with noise."""
    loader = open_loader(reference.folder, reference.transform, 1, 0)
    real, made = loader.rows(0, 2 * count).images.split(count)
    loader.close()
    noise = torch.randint(0, 64, made.shape, generator=torch.Generator().manual_seed(0))
    return real, (made.int() + noise).clamp(0, 255).byte()


def main(words: list[str]) -> None:
    """Of 192 images on each side, or so many."""
    resizing()
    with tempfile.TemporaryDirectory() as name:
        folder, transform = Path(name), Transform(size=16, channels=1)
        shards = Location.of(str(folder / "shards"))
        reference = Reference(shards, ingest(Digits(), transform, shards), transform, shards)
        sides = digits(reference, int(words[0]) if words else 192)
        print(f"{'':<66}{'ours':>12}{'theirs':>12}{'apart':>10}")
        inception(reference, sides, folder)
        dinov2(reference, sides, folder)


if __name__ == "__main__":
    main(sys.argv[1:])
