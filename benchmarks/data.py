"""The data path against other people's, on the same images and the same machine, in turns; medians and ratios."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from statistics import median

import boto3
import numpy as np
import ray
from numpy.typing import NDArray
from PIL import Image
from pydantic import ConfigDict, Field

from pipelines.data.images import Transform
from pipelines.data.ingest import Tasks, ingest
from pipelines.data.plan import Options
from pipelines.data.ray_tasks import on_ray
from pipelines.data.shards import read_manifest
from pipelines.data.sources import ArraySource
from pipelines.data.sources.folder import Folder
from pipelines.data.sources.lsun import Lsun
from pipelines.loading.shuffle_windows import least_bytes
from pipelines.storage.location import Location
from service.configuration.recipe import load
from service.runs.driver.cluster import connect
from tests.conftest import free_port
from tests.data.s3_servers import BUCKET, environment, rclone

ROOT = Path(__file__).resolve().parent.parent
REAL = ROOT.parent / "shared" / "data" / "bedroom_train_lmdb"
PEERS = ("webdataset", "streaming", "torchvision")
ROUNDS, SECONDS = 5, 3.0
DECODED_IMAGES, BUCKET_IMAGES, ENCODED_IMAGES, INGESTED_IMAGES = 40_000, 120_000, 1_900, 7_600
_THREADS = 16


def photographs() -> list[bytes]:
    """Real bedrooms where they are, else blurred noise: 256 pixels high, WebP."""
    if REAL.exists():
        source = Lsun(uri=str(REAL))
        return [bytes(sample.pictures[0]) for sample in source.read(source.index())]
    print(f"  {REAL} is not there: made-up pictures instead", flush=True)
    noise = np.random.default_rng(0)
    made = []
    for _ in range(200):
        image = Image.fromarray(noise.integers(0, 256, (32, 48, 3), dtype=np.uint8)).resize((384, 256))
        file = io.BytesIO()
        image.save(file, "WEBP", quality=75)
        made.append(file.getvalue())
    return made


class Repeated(ArraySource):
    """An array of images, over and over."""

    images: NDArray[np.uint8] = Field(exclude=True)
    count: int
    model_config = ConfigDict(arbitrary_types_allowed=True)

    def arrays(self) -> tuple[NDArray[np.uint8], NDArray[np.integer]]:
        return self.images[np.arange(self.count) % len(self.images)], np.zeros(self.count, np.int64)

    def key(self, row: int) -> str:
        return f"{row:08}"

    def fingerprint(self) -> str:
        return "repeated"

    def describe(self) -> str:
        return "repeated images"


def peers_python() -> str:
    """The Python of the peers' environment, which is made if it is not there."""
    folder = ROOT / ".venv-peers"
    python, ready = folder / "bin" / "python", folder / ".ready"
    if not ready.exists():
        print("  installing the peers", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, "torch==2.13.0"], check=True, stderr=subprocess.DEVNULL)
        subprocess.run([*install, "-r", str(ROOT / "benchmarks" / "peers.txt")], check=True, stderr=subprocess.DEVNULL)
        ready.touch()
    return str(python)


def run(*command: str, cwd: Path = ROOT) -> float:
    """The number that a process prints last."""
    return float(output(*command, cwd=cwd)[-1])


def output(*command: str, cwd: Path = ROOT) -> list[str]:
    """The words that a process prints."""
    settings = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, env=settings, capture_output=True, text=True, check=False, cwd=cwd)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")
    return done.stdout.split()


def in_turns(works: Mapping[str, Callable[[], float]]) -> dict[str, float]:
    """Each work's median, over rounds in which each has its turn."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(ROUNDS):
        for name, work in works.items():
            found[name].append(work())
    return {name: median(values) for name, values in found.items()}


def against_peers(title: str, source: Path, shards: Path, size: int, folder: Path) -> None:
    """Images a second on one core."""
    python, script = peers_python(), str(ROOT / "benchmarks" / "peer_loaders.py")
    works: dict[str, Callable[[], float]] = {
        "ours": lambda: run(
            sys.executable, "-m", "benchmarks.own_loader", "speed", str(shards), str(size), str(SECONDS)
        )
    }
    for peer in PEERS:
        place = str(folder / f"{peer}-{size}")
        subprocess.run(
            [python, "-W", "ignore", script, "write", peer, str(source), place], check=True, capture_output=True
        )
        works[peer] = lambda peer=peer, place=place: run(  # type: ignore[misc]
            python, "-W", "ignore", script, "read", peer, place, str(size), str(SECONDS), cwd=folder
        )
    found = in_turns(works)
    best = max(PEERS, key=lambda peer: found[peer])
    print(f"  {title}, images/s on one core: " + ", ".join(f"{name} {value:,.0f}" for name, value in found.items()))
    print(f"    ours / best peer ({best}) = {found['ours'] / found[best]:.2f}", flush=True)


def repeated(pictures: list[bytes], count: int) -> Repeated:
    transform = Transform(size=64)
    return Repeated(images=np.stack([transform(picture) for picture in pictures]), count=count)


def decoded(pictures: list[bytes], folder: Path) -> None:
    source = repeated(pictures, DECODED_IMAGES)
    ingest(source, Transform(size=64), Location.of(str(folder / "decoded")))
    np.savez(folder / "decoded.npz", images=source.arrays()[0])
    against_peers("decoded, 64x64x3, local disk", folder / "decoded.npz", folder / "decoded", 64, folder)


def encoded(pictures: list[bytes], folder: Path) -> None:
    (folder / "pictures").mkdir()
    for number in range(ENCODED_IMAGES):
        (folder / "pictures" / f"{number:06}.webp").write_bytes(pictures[number % len(pictures)])
    source = Folder(uri=str(folder / "pictures"))
    ingest(source, Transform(size=256), Location.of(str(folder / "encoded")), Options(stored="encoded"))
    against_peers("WebP at 256 pixels, decoded when read", folder / "pictures", folder / "encoded", 256, folder)


def cpu_per_gigabyte(work: Callable[[], float], size: int) -> float:
    """This process's CPU seconds for each GB that work reads of so many bytes."""
    began = time.process_time()
    work()
    return (time.process_time() - began) / (size * 1e-9)


def raw_by_arrow(folder: Location) -> float:
    """Bytes a second of the same ranges, read by pyarrow and dropped."""
    manifest = read_manifest(folder)
    files = {shard.name: (folder / shard.name).open() for shard in manifest.shards}
    ranges = [(files[shard.name], *span) for shard in manifest.shards for span in pairwise(shard.offsets)]
    began = time.perf_counter()
    with ThreadPoolExecutor(_THREADS) as threads:
        read = sum(threads.map(lambda span: len(span[0].read_at(span[2] - span[1], span[1])), ranges))
    return read / (time.perf_counter() - began)


def raw_by_boto3(folder: Location) -> float:
    """Bytes a second of the same ranges, read by boto3 and dropped."""
    manifest = read_manifest(folder)
    bucket, _, prefix = folder.path.partition("/")
    client = boto3.client("s3", config=boto3.session.Config(max_pool_connections=_THREADS))
    ranges = [(f"{prefix}/{shard.name}", *span) for shard in manifest.shards for span in pairwise(shard.offsets)]

    def read(span: tuple[str, int, int]) -> int:
        found = client.get_object(Bucket=bucket, Key=span[0], Range=f"bytes={span[1]}-{span[2] - 1}")
        return len(found["Body"].read())

    began = time.perf_counter()
    with ThreadPoolExecutor(_THREADS) as threads:
        total = sum(threads.map(read, ranges))
    return total / (time.perf_counter() - began)


def bucket(pictures: list[bytes], folder: Path) -> None:
    shards = folder / "buckets" / BUCKET / "shards"
    ingest(repeated(pictures, BUCKET_IMAGES), Transform(size=64), Location.of(str(shards)))
    with rclone(free_port(), folder / "buckets") as endpoint:
        os.environ.update(environment(endpoint))
        uri = f"s3://{BUCKET}/shards"
        remote = Location.of(uri)
        own = [sys.executable, "-m", "benchmarks.own_loader"]
        memory = str(400 << 20)
        found = in_turns(
            {
                "ours": lambda: run(*own, "bucket", uri, "64", memory),
                "pyarrow": lambda: raw_by_arrow(remote),
                "boto3": lambda: raw_by_boto3(remote),
            }
        )
        rate = max(found["pyarrow"], found["boto3"])
        print(
            "  from S3 on loopback, MB/s: " + ", ".join(f"{name} {value / 1e6:,.0f}" for name, value in found.items())
        )
        print(f"    ours / raw ranged reads = {found['ours'] / rate:.2f}", flush=True)
        size = read_manifest(remote).bytes
        found = in_turns(
            {
                "ours": lambda: float(output(*own, "bucket", uri, "64", memory)[-2]),
                "pyarrow": lambda: cpu_per_gigabyte(lambda: raw_by_arrow(remote), size),
                "boto3": lambda: cpu_per_gigabyte(lambda: raw_by_boto3(remote), size),
            }
        )
        print("  the client's CPU seconds a GB: " + ", ".join(f"{name} {value:.2f}" for name, value in found.items()))
        budget = least_bytes(read_manifest(remote), 64, 1, 64 * 64 * 3)
        for title, place in (("local disk", str(shards)), ("S3", uri)):
            _, mapped, _, held = output(*own, "memory", place, "64", str(budget))
            sizes = [f"{int(size) / 2**20:,.0f} MiB" for size in (held, mapped, budget)]
            print(
                f"  memory of a loader, {title}: {sizes[0]} and {sizes[1]} of mapped files, budget {sizes[2]}",
                flush=True,
            )
            print(f"    all of it / budget = {(int(held) + int(mapped)) / budget:.2f}", flush=True)


def transform_all(pictures: list[bytes]) -> int:
    transform = Transform(size=64)
    for picture in pictures:
        transform(picture)
    return len(pictures)


def ingesting(pictures: list[bytes], folder: Path) -> None:
    many = [pictures[number % len(pictures)] for number in range(INGESTED_IMAGES)]
    cores = len(os.sched_getaffinity(0))
    (folder / "source").mkdir()
    for number, picture in enumerate(many):
        (folder / "source" / f"{number:06}.webp").write_bytes(picture)
    source, options = Folder(uri=str(folder / "source")), Options(shard_rows=512)
    targets: Iterator[Path] = (folder / f"ingested-{number}" for number in range(100))
    connect(load("digits", ["cluster.address=local"]))
    with ProcessPoolExecutor(cores) as pool:

        def loop() -> float:
            began = time.perf_counter()
            images = sum(pool.map(transform_all, [many[core::cores] for core in range(cores)]))
            return images / (time.perf_counter() - began)

        def ours(tasks: Tasks) -> float:
            began = time.perf_counter()
            manifest = ingest(source, Transform(size=64), Location.of(str(next(targets))), options, tasks)
            return manifest.rows / (time.perf_counter() - began)

        loop(), ours(on_ray)  # Workers start.
        found = in_turns({"ours": lambda: ours(on_ray), "decode and resize alone": loop})
    ray.shutdown()
    print(f"  ingest of 256-pixel WebP to 64 on {cores} cores, images/s: ", end="")
    print(", ".join(f"{name} {value:,.0f}" for name, value in found.items()))
    print(f"    ours / alone = {found['ours'] / found['decode and resize alone']:.2f}", flush=True)


def on_photographs(work: Callable[[list[bytes], Path], None]) -> Callable[[], None]:
    """A benchmark of `work`, in a folder that is removed afterwards."""

    def main() -> None:
        with tempfile.TemporaryDirectory() as folder:
            work(photographs(), Path(folder))

    return main
