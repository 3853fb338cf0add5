"""Other people's data loaders, as their documentation uses them; run by the Python of an environment of their own.

``python peer_loaders.py write SYSTEM SOURCE FOLDER``: SOURCE is an .npz with ``images``, or a folder of pictures.
``python peer_loaders.py read SYSTEM FOLDER SIZE SECONDS``: prints images a second on one core, to a float tensor
(64, 3, SIZE, SIZE) in [-1, 1]. Where a loader can hand over uint8 they are made float by the batch, as ours are.
"""

from __future__ import annotations

import io
import os
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

BATCH = 64
_RECORDS_PER_FILE = 4096


def samples(source: Path) -> Iterator[tuple[str, Any]]:
    """Key, and an array or encoded bytes."""
    if source.suffix == ".npz":
        for number, image in enumerate(np.load(source)["images"]):
            yield f"{number:08}", image
        return
    for file in sorted(source.iterdir()):
        yield file.stem, file.read_bytes()


def to_float(images: torch.Tensor) -> torch.Tensor:
    """uint8 (N, H, W, C) -> float (N, C, H, W) in [-1, 1]."""
    return images.permute(0, 3, 1, 2).to(torch.float32).mul_(2 / 255).sub_(1)


def square(content: bytes, size: int) -> np.ndarray:
    """An encoded picture, cropped and resized as ours are."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    return np.asarray(image if side == size else image.resize((size, size), Image.Resampling.LANCZOS))


def write_webdataset(source: Path, folder: Path) -> None:
    import webdataset

    with webdataset.ShardWriter(f"{folder}/%05d.tar", maxcount=_RECORDS_PER_FILE, verbose=0) as sink:
        for key, value in samples(source):
            sink.write({"__key__": key, ("webp" if isinstance(value, bytes) else "npy"): value})


def read_webdataset(folder: Path, size: int) -> Iterator[torch.Tensor]:
    import webdataset

    files = sorted(str(file) for file in folder.glob("*.tar"))
    dataset = webdataset.WebDataset(files, shardshuffle=len(files), empty_check=False).shuffle(1000)
    encoded = b".webp" in Path(files[0]).read_bytes()[:2000]
    if encoded:
        dataset = dataset.to_tuple("webp").map(lambda sample: square(sample[0], size))
    else:
        dataset = dataset.decode().to_tuple("npy").map(lambda sample: sample[0])
    loader = torch.utils.data.DataLoader(dataset.batched(BATCH, collation_fn=np.stack), batch_size=None)
    while True:
        for batch in loader:
            yield to_float(batch if isinstance(batch, torch.Tensor) else torch.from_numpy(batch))


def write_streaming(source: Path, folder: Path) -> None:
    from streaming import MDSWriter

    first = next(samples(source))[1]
    kind = "bytes" if isinstance(first, bytes) else f"ndarray:uint8:{','.join(map(str, first.shape))}"
    with MDSWriter(out=str(folder), columns={"image": kind}) as sink:
        for _, value in samples(source):
            sink.write({"image": value})


def read_streaming(folder: Path, size: int) -> Iterator[torch.Tensor]:
    from streaming import StreamingDataset

    dataset = StreamingDataset(local=str(folder), shuffle=True, batch_size=BATCH)

    def collate(records: list[dict[str, Any]]) -> torch.Tensor:
        images = [record["image"] for record in records]
        return torch.from_numpy(
            np.stack([square(image, size) if isinstance(image, bytes) else image for image in images])
        )

    loader = torch.utils.data.DataLoader(dataset, batch_size=BATCH, collate_fn=collate, drop_last=True)
    while True:
        for batch in loader:
            yield to_float(batch)


def write_torchvision(source: Path, folder: Path) -> None:
    import lmdb

    with (
        lmdb.open(f"{folder}/bedroom_train_lmdb", map_size=1 << 33) as environment,
        environment.begin(write=True) as to,
    ):
        for key, value in samples(source):
            if not isinstance(value, bytes):
                file = io.BytesIO()
                Image.fromarray(value).save(file, "PNG")
                value = file.getvalue()
            to.put(key.encode(), value)


def read_torchvision(folder: Path, size: int) -> Iterator[torch.Tensor]:
    from torchvision.datasets import LSUN

    dataset = LSUN(str(folder), classes=["bedroom_train"])

    def collate(records: list[tuple[Image.Image, int]]) -> torch.Tensor:
        images = []
        for image, _ in records:
            side = min(image.size)
            left, top = (image.width - side) // 2, (image.height - side) // 2
            image = image.crop((left, top, left + side, top + side))
            images.append(np.asarray(image if side == size else image.resize((size, size), Image.Resampling.LANCZOS)))
        return torch.from_numpy(np.stack(images))

    loader = torch.utils.data.DataLoader(dataset, BATCH, shuffle=True, collate_fn=collate, drop_last=True)
    while True:
        for batch in loader:
            yield to_float(batch)


def measure(batches: Iterator[torch.Tensor], size: int, seconds: float) -> float:
    """Images a second, after a second to warm up."""
    deadline = time.perf_counter() + 1
    while time.perf_counter() < deadline:
        assert next(batches).shape == (BATCH, 3, size, size)
    count, began = 0, time.perf_counter()
    while (now := time.perf_counter()) < began + seconds:
        count += len(next(batches))
    return count / (now - began)


def leave_out_torchvision_operators() -> None:
    """Torchvision's compiled part does not load beside a CPU build of torch; its data sets need none of it."""
    sys.modules["torchvision._meta_registrations"] = types.ModuleType("torchvision._meta_registrations")


def on_one_core() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)


if __name__ == "__main__":
    command, system, *words = sys.argv[1:]
    leave_out_torchvision_operators()
    if command == "write":
        write: Callable[[Path, Path], None] = globals()[f"write_{system}"]
        Path(words[1]).mkdir(parents=True)
        write(Path(words[0]), Path(words[1]))
    else:
        on_one_core()
        read: Callable[[Path, int], Iterator[torch.Tensor]] = globals()[f"read_{system}"]
        print(measure(read(Path(words[0]), int(words[1])), int(words[1]), float(words[2])))
