"""Object storage, over real HTTP: two servers that have nothing in common, and faults in front of one."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import numpy as np
import pytest

from pipelines.components import ConfigError
from pipelines.data.images import Transform
from pipelines.data.ingest import ingest
from pipelines.data.inspection import damages
from pipelines.data.plan import Options
from pipelines.data.shards import DamagedShardError, read_manifest, versions
from pipelines.data.sources.folder import Folder
from pipelines.data.sources.idx import Idx
from pipelines.data.sources.lsun import Lsun
from pipelines.loading.blocks import Blocks
from pipelines.loading.disk_cache import DiskCache
from pipelines.loading.loader import Loader, open_loader
from pipelines.storage.location import Location
from service.train import main
from tests.conftest import called, free_port, train
from tests.data.s3_servers import BUCKET, SECRET, FaultyProxy, environment, moto, rclone
from tests.made_data import bedrooms, encoded, write_idx, write_zip

GREY = Transform(size=28, channels=1)


@pytest.fixture(scope="module", params=["moto", pytest.param("rclone", marks=pytest.mark.long)])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("buckets")
    (folder / BUCKET).mkdir()
    with moto(free_port()) if request.param == "moto" else rclone(free_port(), folder) as endpoint:
        if request.param == "moto":
            boto3.client("s3", endpoint_url=endpoint, **_credentials()).create_bucket(Bucket=BUCKET)
        yield endpoint


def _credentials() -> dict[str, str]:
    found = environment("")
    return {
        "aws_access_key_id": found["AWS_ACCESS_KEY_ID"],
        "aws_secret_access_key": found["AWS_SECRET_ACCESS_KEY"],
        "region_name": "us-east-1",
    }


@pytest.fixture
def s3(server: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder of this test's own, in a bucket that the environment leads to."""
    for name, value in environment(server).items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{request.node.name.replace('[', '-').strip(']')}"


def test_files_come_and_go(s3: str) -> None:
    folder = Location.of(s3)
    file = folder / "a" / "b.gz"
    assert not file.exists()
    assert folder.files() == []
    assert file.size() is None
    with pytest.raises(FileNotFoundError):
        file.read()
    file.write(b"content")
    assert (file.read(), file.size(), str(file)) == (b"content", 7, f"{s3}/a/b.gz")
    assert [found.name for found in folder.files(recursive=True)] == ["a/b.gz"]
    with file.open() as opened:
        assert opened.read_at(3, 2) == b"nte"
    (folder / "a").delete()
    assert not file.exists()


def test_names_of_any_kind_come_back_as_they_are(s3: str) -> None:
    folder = Location.of(f"{s3}/a #1 + b/ünï")
    names = ["with space", "plus+", "hash#1", "percent%20", "quote'", "ünïcode", "=&"]
    for name in names:
        (folder / name).write(name.encode())
    assert [file.name for file in folder.files()] == sorted(names)
    assert [(folder / name).read().decode() for name in names] == names
    assert {file.name for file in Location.of(s3).files(recursive=True)} == {f"a #1 + b/ünï/{name}" for name in names}


def test_a_listing_of_more_than_a_thousand_has_them_all(s3: str) -> None:
    """S3 gives a thousand at a time."""
    folder = Location.of(s3)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda at: (folder / f"many/{at:04}").write(b"x"), range(1005)))
    assert [file.name for file in (folder / "many").files()] == [f"{at:04}" for at in range(1005)]


def test_a_file_is_created_once(s3: str) -> None:
    file = Location.of(s3) / "claim"
    assert file.create(b"first")
    assert not file.create(b"second")
    assert file.read() == b"first"


def test_of_many_who_create_a_file_at_once_one_does(s3: str) -> None:
    if "rclone" in s3:
        pytest.skip("rclone serves no conditional puts: writers at the same moment cannot be told apart there")
    file = Location.of(s3) / "claim"
    won: list[int] = []

    def create(at: int) -> None:
        if file.create(str(at).encode()):
            won.append(at)

    threads = [threading.Thread(target=create, args=(at,)) for at in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert file.read() == str(won[0]).encode()


def test_a_data_set_in_a_bucket_is_that_on_the_disk(s3: str, tmp_path: Path) -> None:
    write_idx(tmp_path / "idx", count=900)
    source, options = Idx(uri=str(tmp_path / "idx")), Options(shard_rows=200)
    local, remote = Location.of(str(tmp_path / "shards")), Location.of(s3)
    manifest = ingest(source, GREY, local, options)
    assert ingest(source, GREY, remote, options) == manifest
    assert [(file.name, file.size) for file in remote.files(recursive=True)] == [
        (file.name, file.size) for file in local.files(recursive=True)
    ]
    assert all((remote / file.name).read() == (local / file.name).read() for file in local.files())
    assert damages(remote, manifest) == []
    loaders = [open_loader(folder, GREY, 50, 0) for folder in (local, remote)]
    for step in range(20):
        batches = [loader.batch(step) for loader in loaders]
        assert batches[0].images.equal(batches[1].images)
    assert loaders[0].some(100).images.equal(loaders[1].some(100).images)
    for loader in loaders:
        loader.close()
    with pytest.raises(ConfigError, match="holds another data set"):
        ingest(source, Transform(size=20, channels=1), remote)
    (remote / manifest.shards[1].name).write((local / manifest.shards[1].name).read()[:-500] + b"x" * 500)
    (remote / manifest.shards[2].name).delete()
    found = damages(remote, manifest)
    assert [name in line for name, line in zip(("00001.arrow: has sha256", "00002.arrow"), found, strict=True)] == [
        True
    ] * 2


def test_sources_are_read_where_they_lie_in_a_bucket(s3: str, tmp_path: Path) -> None:
    values = bedrooms(tmp_path / "lmdb", 30)
    pictures = {f"{at}.png": encoded() for at in range(5)}
    write_zip(tmp_path / "pictures.zip", pictures)
    bucket = Location.of(s3)
    (bucket / "bedroom" / "data.mdb").write((tmp_path / "lmdb" / "data.mdb").read_bytes())
    (bucket / "pictures.zip").write((tmp_path / "pictures.zip").read_bytes())
    for name, content in pictures.items():
        (bucket / "folder" / name).write(content)
    for source, expected in (
        (Lsun(uri=f"{s3}/bedroom"), values),
        (Folder(uri=f"{s3}/pictures.zip"), pictures),
        (Folder(uri=f"{s3}/folder"), pictures),
    ):
        samples = list(source.read(source.index()))
        assert {sample.key: sample.pictures[0] for sample in samples} == expected
        assert source.fingerprint() == source.fingerprint()
    with pytest.raises(ConfigError, match="does not exist"):
        Lsun(uri=f"{s3}/nowhere").index()


def test_the_cache_spares_the_bucket(s3: str, tmp_path: Path) -> None:
    write_idx(tmp_path / "idx", count=600)
    folder = Location.of(s3)
    manifest = ingest(Idx(uri=str(tmp_path / "idx")), GREY, folder)
    cache = DiskCache(tmp_path / "cache", 1 << 24)
    blocks = Blocks(folder, manifest, cache)
    before = [blocks.open(at).pictures["image"] for at in range(len(blocks))]
    (folder / manifest.shards[0].name).delete()
    again = Blocks(folder, manifest, DiskCache(tmp_path / "cache", 1 << 24))
    assert all(np.array_equal(again.open(at).pictures["image"], before[at]) for at in range(len(again)))
    damaged = next((tmp_path / "cache").glob("??/*"))
    damaged.write_bytes(b"?" * damaged.stat().st_size)
    with pytest.raises(DamagedShardError, match="cannot be read"):  # It is fetched again, and not there any more.
        for at in range(len(again)):
            again.open(at)


@pytest.fixture
def faulty(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FaultyProxy]:
    """A proxy in front of a server, by the test's parameters; the environment leads to it."""
    (tmp_path / BUCKET).mkdir()
    with rclone(free_port(), tmp_path) as endpoint:
        proxy = FaultyProxy(endpoint, **request.param)
        for name, value in environment(proxy.endpoint).items():
            monkeypatch.setenv(name, value)
        yield proxy
        proxy.close()


FAULTS = [{"refused": 0.1}, {"cut": 0.1}, {"stalled": 0.03}, {"refused": 0.1, "cut": 0.05, "stalled": 0.01}]


def faults(chances: dict[str, float]) -> object:
    """Each fault alone says which one it is that is not borne; all together are what takes place."""
    return pytest.param(chances, id="+".join(chances), marks=[] if len(chances) > 1 else pytest.mark.long)


@pytest.mark.parametrize("faulty", map(faults, FAULTS), indirect=True)
def test_faults_lose_and_repeat_nothing(faulty: FaultyProxy, tmp_path: Path) -> None:
    """Written and read through the faults: every sample of a full epoch once, as it was in the source."""
    images = write_idx(tmp_path / "idx", count=2048)
    folder = Location.of(f"s3://{BUCKET}/shards")
    manifest = ingest(Idx(uri=str(tmp_path / "idx")), GREY, folder, Options(shard_rows=300))
    assert damages(folder, manifest) == []
    known = {image.tobytes(): number for number, image in enumerate(images)}
    loaders: list[Loader] = [open_loader(folder, GREY, 64, 0, rank, 2) for rank in range(2)]
    seen = [
        known[image.numpy().tobytes()]
        for step in range(2048 // 64)
        for loader in loaders
        for image in loader.batch(step).images
    ]
    for loader in loaders:
        loader.close()
    print(f"\n{faulty.requests} requests, {dict(faulty.faults)}")
    assert sorted(seen) == list(range(2048))
    assert all(faulty.faults[fault] > 0 for fault, chance in faulty._chances.items() if chance)


@pytest.mark.parametrize("faulty", [{"conditional": False}], indirect=True)
def test_a_store_without_conditional_puts_is_told_in_one_line(faulty: FaultyProxy) -> None:
    code, out, err = called(main, "digits", f"storage=s3://{BUCKET}/runs", "name=new")
    assert (code, out, err.count("\n")) == (2, "", 1)
    refused = f"error: s3://{BUCKET}/runs/.claims/new/lease-00000001: the store has no conditional puts (it answers 501"
    assert err.startswith(refused)


def test_a_missing_or_damaged_shard_names_itself(s3: str, tmp_path: Path) -> None:
    write_idx(tmp_path / "idx", count=300)
    folder = Location.of(s3)
    ingest(Idx(uri=str(tmp_path / "idx")), GREY, folder)
    shard = folder / "shard-00001-00000.arrow"
    content = bytearray(shard.read())
    content[len(content) // 2] ^= 1
    for damage, what in (
        (bytes(content), "has XXH3"),
        (bytes(content[:9000]), "bytes, the manifest says"),
        (None, "cannot be read"),
    ):
        shard.delete() if damage is None else shard.write(damage)
        loader = open_loader(folder, GREY, 300, 0)
        with pytest.raises(DamagedShardError, match=rf"shard {s3}/shard-00001-00000.arrow is damaged: .*{what}"):
            loader.batch(0)
        loader.close()


def test_credentials_in_a_uri_are_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match="credentials do not belong in a URI") as caught:
        Location.of(f"s3://key:{SECRET}@bucket/shards")
    assert SECRET not in str(caught.value)
    with pytest.raises(ConfigError, match="unknown option 'access_key'"):
        Location.of("s3://bucket/shards?access_key=x")


@pytest.mark.long
def test_the_bedroom_recipe_trains_from_a_bucket_on_two_replicas(s3: str, tmp_path: Path) -> None:
    """With checkpoints and the best checkpoint in the bucket, and nothing secret anywhere.

    Ray makes objects that stand for folders, which rclone refuses: there the checkpoints are on the disk.
    """
    bedrooms(tmp_path / "lmdb", 80, (70, 64))
    storage = str(tmp_path / "runs") if "rclone" in s3 else f"{s3}/runs"
    recipe = ["self-dcgan-bedroom", f"data.source.uri={tmp_path / 'lmdb'}", f"data.shards={s3}/shards"]
    smaller = ["network.generator_channels=4", "network.critic_channels=4", "batch.size=16", "logging.samples=4"]
    often = ["steps=6", "checkpoints.every=3", "checkpoints.score_images=16", "logging.every=1"]
    often += ["profile.steps=2", "profile.after=2"]
    places = [f"storage={storage}", f"tracking.uri=sqlite:///{tmp_path}/mlflow.db", "cluster.address=local"]
    words = [*recipe, *smaller, *often, *places, "name=bed", "replicas=2", f"loader.cache={tmp_path / 'cache'}"]
    code, out, err = train(*words, cwd=tmp_path)
    assert code == 0, err
    assert "on 2 replicas" in out
    run = Location.of(f"{storage}/bed")
    assert (run / "step-00000006" / "networks.safetensors").exists()
    assert (run / "best.json").exists()
    assert (run / "profile" / "steps-00000003-00000004.json.gz").exists()
    assert versions(Location.of(f"{s3}/shards")) == [1]
    assert read_manifest(Location.of(f"{s3}/shards")).rows == 80
    assert list((tmp_path / "cache").glob("??/*"))
    written = [out, err, *((run / file.name).read().decode(errors="replace") for file in run.files())]
    written += [(tmp_path / "mlflow.db").read_bytes().decode(errors="replace")]
    assert not any(SECRET in text for text in written)
    if storage.startswith("s3://"):
        code, _, err = train("resume=bed", "steps=8", f"storage={storage}", "cluster.address=local", cwd=tmp_path)
        assert code == 0, err
        assert (run / "step-00000008" / "networks.safetensors").exists()
