"""The loader: the right rows, in memory's bounds, from any shards, however damaged."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.data.images import Transform
from pipelines.data.ingest import ingest
from pipelines.data.plan import Options
from pipelines.data.shards import DamagedShardError, Images, Manifest, read_manifest
from pipelines.data.sources.idx import Idx
from pipelines.data.sources.lsun import Lsun
from pipelines.data.sources.pairs import Pairs
from pipelines.loading.block_pool import BlockPool, OverBudgetError
from pipelines.loading.blocks import Block, Blocks
from pipelines.loading.disk_cache import DiskCache
from pipelines.loading.loader import Loader, LocalBatch, Reading, open_loader
from pipelines.loading.shuffle_windows import least_bytes
from pipelines.storage.location import Location
from tests.made_data import bedrooms, encoded, write_folder, write_idx

GREY = Transform(size=28, channels=1)


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Location, Images]:
    """A data set of 2,048 images of noise in five shards, and those."""
    folder = tmp_path_factory.mktemp("numbers")
    images = write_idx(folder / "idx", count=2048)
    ingest(Idx(uri=str(folder / "idx")), GREY, Location.of(str(folder / "shards")), Options(shard_rows=450))
    return Location.of(str(folder / "shards")), images


@pytest.fixture
def open_loaders() -> Iterator[list[Loader]]:
    loaders: list[Loader] = []
    yield loaders
    for loader in loaders:
        loader.close()


def identities(images: Images, batches: list[LocalBatch]) -> list[int]:
    """Which images of the data set these batches hold."""
    known = {image.tobytes(): number for number, image in enumerate(images)}
    return [known[image.numpy().tobytes()] for batch in batches for image in batch.images]


def test_the_loader_gives_the_orders_rows(numbers: tuple[Location, Images], open_loaders: list[Loader]) -> None:
    folder, images = numbers
    loader = open_loader(folder, GREY, 64, 7)
    open_loaders.append(loader)
    for step in (0, 1, 2, 40, 41, 5):
        batch = loader.batch(step)
        rows = loader._order.share(step, 0, 1).indices
        assert np.array_equal(batch.images[:, 0].numpy(), images[rows])
        assert batch.labels.tolist() == [row % 10 for row in rows]
        assert batch.paired is None


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 100), (449, 451), (2000, 2048), (2000, 2100), (2048, 2100), (3000, 3100)]
)
def test_rows_are_read_as_they_lie(
    start: int, stop: int, numbers: tuple[Location, Images], open_loaders: list[Loader]
) -> None:
    folder, images = numbers
    loader = open_loader(folder, GREY, 64, 7)
    open_loaders.append(loader)
    found = loader.rows(start, stop)
    assert np.array_equal(found.images[:, 0].numpy(), images[start:stop])
    assert found.labels.tolist() == [row % 10 for row in range(start, min(stop, 2048))]


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 64])
def test_replicas_share_out_what_one_would_read(
    world_size: int, numbers: tuple[Location, Images], open_loaders: list[Loader]
) -> None:
    folder, _ = numbers
    whole = open_loader(folder, GREY, 100, 0)
    parts = [open_loader(folder, GREY, 100, 0, rank, world_size) for rank in range(world_size)]
    open_loaders += [whole, *parts]
    for step in (0, 1, 33):
        expected, found = whole.batch(step), [part.batch(step) for part in parts]
        assert torch.equal(torch.cat([part.images for part in found]), expected.images)
        assert [part.first_row for part in found] == np.cumsum([0, *(len(part.images) for part in found[:-1])]).tolist()


def test_an_epoch_holds_every_sample_once(numbers: tuple[Location, Images], open_loaders: list[Loader]) -> None:
    folder, images = numbers
    loaders = [open_loader(folder, GREY, 64, 1, rank, 3) for rank in range(3)]
    open_loaders += loaders
    for epoch in range(2):
        steps = range(epoch * 32, epoch * 32 + 32)
        assert sorted(identities(images, [loader.batch(step) for step in steps for loader in loaders])) == list(
            range(2048)
        )


def test_some_images_are_always_the_same(numbers: tuple[Location, Images]) -> None:
    folder, images = numbers
    loader = open_loader(folder, GREY, 64, 0)
    for count in (1, 64, 500, 2048, 3000):
        some = loader.some(count).images
        assert some.shape == (min(count, 2048), 1, 28, 28)
        found = identities(images, [LocalBatch(0, some, None, torch.empty(0))])
        assert len(set(found)) == len(found)
        assert torch.equal(some, loader.some(count).images)
    spread = identities(images, [loader.some(64)])
    assert min(spread) < 100
    assert max(spread) > 1900


@pytest.mark.parametrize("threads", [1, 3])
def test_encoded_pictures_are_decoded_to_what_an_ingest_would_have_written(
    threads: int, tmp_path: Path, open_loaders: list[Loader]
) -> None:
    bedrooms(tmp_path / "lmdb", 70)
    transform, source = Transform(size=16), Lsun(uri=str(tmp_path / "lmdb"))
    both = {}
    for stored in ("decoded", "encoded"):
        folder = Location.of(str(tmp_path / stored))
        ingest(source, transform, folder, Options(stored=stored))
        loader = open_loader(folder, transform, 20, 0, reading=Reading(decode_threads=threads))
        open_loaders.append(loader)
        both[stored] = loader
    assert (
        both["decoded"]._order.share(3, 0, 1).indices.tolist() == both["encoded"]._order.share(3, 0, 1).indices.tolist()
    )
    for step in (0, 3, 4):
        assert torch.equal(both["decoded"].batch(step).images, both["encoded"].batch(step).images)


def test_pairs_stay_together(tmp_path: Path, open_loaders: list[Loader]) -> None:
    write_folder(tmp_path / "a", {f"{at}.png": encoded("PNG", (32, 16)) for at in range(30)})
    transform, folder = Transform(size=16), Location.of(str(tmp_path / "shards"))
    ingest(Pairs(uri=str(tmp_path / "a")), transform, folder)
    loader = open_loader(folder, transform, 10, 0)
    open_loaders.append(loader)
    blocks = Blocks(folder, read_manifest(folder))
    for step in range(4):
        batch = loader.batch(step)
        assert batch.paired is not None
        for place, row in enumerate(loader._order.share(step, 0, 1).indices.tolist()):
            pictures = blocks.open(row).pictures  # A block has one row here.
            assert np.array_equal(batch.images[place].permute(1, 2, 0).numpy(), np.asarray(pictures["image"])[0])
            assert np.array_equal(batch.paired[place].permute(1, 2, 0).numpy(), np.asarray(pictures["paired"])[0])


def test_an_appended_version_does_not_change_what_a_pinned_run_reads(
    tmp_path: Path, open_loaders: list[Loader]
) -> None:
    bedrooms(tmp_path / "a", 20)
    transform, folder = Transform(size=16), Location.of(str(tmp_path / "shards"))
    ingest(Lsun(uri=str(tmp_path / "a")), transform, folder)
    first = open_loader(folder, transform, 8, 0)
    open_loaders.append(first)
    before = first.batch(5).images
    write_folder(tmp_path / "b", {"new.png": encoded()})
    from pipelines.data.sources.folder import Folder

    ingest(Folder(uri=str(tmp_path / "b")), transform, folder, Options(append=True))
    pinned, latest = open_loader(folder, transform, 8, 0, version=1), open_loader(folder, transform, 8, 0)
    open_loaders += [pinned, latest]
    assert torch.equal(pinned.batch(5).images, before)
    assert (pinned.manifest.rows, latest.manifest.rows) == (20, 21)


class Counting(Blocks):
    """Blocks that know how many bytes of them are open, and how many were at most."""

    def __init__(self, folder: Location, manifest: Manifest) -> None:
        super().__init__(folder, manifest)
        self.lock, self.now, self.most, self.opened = threading.Lock(), 0, 0, 0

    def open(self, number: int) -> Block:
        block = super().open(number)
        with self.lock:
            self.opened += 1
            self.now += self.bytes[number]
            self.most = max(self.most, self.now)

        def close() -> None:
            block.close()
            with self.lock:
                self.now -= self.bytes[number]

        return block._replace(close=close)


def counting_loader(folder: Location, batch_size: int, memory_bytes: int) -> tuple[Counting, Loader]:
    from pipelines.loading.order import Order

    manifest = read_manifest(folder)
    blocks = Counting(folder, manifest)
    order = Order(blocks.rows, manifest.lanes, batch_size, 0)
    return blocks, Loader(blocks, order, GREY, 0, 1, Reading(memory_bytes=memory_bytes))


@pytest.mark.parametrize("batch_size", [16, 64, 300])
def test_open_blocks_stay_within_the_budget(
    batch_size: int, numbers: tuple[Location, Images], open_loaders: list[Loader]
) -> None:
    folder, _ = numbers
    manifest = read_manifest(folder)
    least = least_bytes(manifest, batch_size, 1, 28 * 28)
    blocks, loader = counting_loader(folder, batch_size, least)
    open_loaders.append(loader)
    for step in range(2 * 2048 // batch_size):
        loader.batch(step)
        assert blocks.most <= least
    loader.close()
    assert blocks.now == 0


def test_a_small_data_set_is_read_once(numbers: tuple[Location, Images], open_loaders: list[Loader]) -> None:
    blocks, loader = counting_loader(numbers[0], 100, 1 << 30)
    open_loaders.append(loader)
    for step in range(100):
        loader.batch(step)
    assert blocks.opened == len(blocks)


def test_what_is_needed_at_once_must_fit(numbers: tuple[Location, Images], open_loaders: list[Loader]) -> None:
    _, loader = counting_loader(numbers[0], 64, 300_000)
    open_loaders.append(loader)
    with pytest.raises(OverBudgetError, match="bytes has no room for"):
        loader.batch(0)


def test_a_pool_closes_what_nobody_uses_when_it_needs_room() -> None:
    closed: list[int] = []

    def opening(number: int) -> Block:
        return Block({}, np.empty(0, np.int64), lambda: closed.append(number))

    pool = BlockPool(opening, [10] * 9, 30, 1)
    assert pool.want([0, 1])
    assert pool.want([1, 2])
    assert not pool.want([3])
    pool.release([0, 1])
    assert pool.want([3])  # In place of 0; somebody still uses 1.
    pool.get(3)
    assert not pool.want([4])
    pool.release([1, 2])
    assert pool.want([2, 4])
    pool.get(4)
    with pytest.raises(OverBudgetError):
        pool.need([5, 6])
    assert pool.used_bytes == 30
    pool.close()
    assert sorted(closed) == [0, 1, 2, 3, 4]


def test_a_loader_that_is_closed_leaves_no_thread(numbers: tuple[Location, Images]) -> None:
    others = set(threading.enumerate())  # Those of loaders that other tests have not closed, too.
    loader = open_loader(numbers[0], GREY, 64, 0)
    loader.batch(0)
    loader.batch(100)
    assert set(threading.enumerate()) - others
    loader.close()
    assert set(threading.enumerate()) - others == set()


def damaged_copy(folder: Location, target: Path, damage: str, shard: str = "shard-00001-00002.arrow") -> Location:
    """A copy of a data set with a shard that is "flipped" (one bit), "cut", "missing" or, with "none", as it was."""
    target.mkdir()
    for file in folder.files():
        (target / file.name).write_bytes((folder / file.name).read())
    if damage == "missing":
        (target / shard).unlink()
    elif damage != "none":
        content = bytearray((target / shard).read_bytes())
        content[len(content) // 2] ^= 1
        (target / shard).write_bytes(content if damage == "flipped" else content[:-1000])
    return Location.of(str(target))


@pytest.mark.parametrize("damage", ["flipped", "cut", "missing"])
def test_a_damaged_shard_names_itself_and_stops_the_loader(
    damage: str, numbers: tuple[Location, Images], tmp_path: Path, open_loaders: list[Loader]
) -> None:
    loader = open_loader(damaged_copy(numbers[0], tmp_path / "copy", damage), GREY, 64, 0)
    open_loaders.append(loader)
    what = {"flipped": r"has XXH3 .* the manifest says .*sha256", "cut": "bytes, the manifest says", "missing": "read"}
    for _ in range(2):  # Asked again it says so again.
        with pytest.raises(DamagedShardError, match=rf"shard-00001-00002\.arrow is damaged: .*{what[damage]}"):
            for step in range(2048 // 64):
                loader.batch(step)


@pytest.mark.parametrize("damage", ["flipped", "missing"])
def test_damaged_blocks_are_replaced_if_so_wished_alike_on_any_number_of_replicas(
    damage: str, numbers: tuple[Location, Images], tmp_path: Path, open_loaders: list[Loader]
) -> None:
    folder, images = numbers
    copy = damaged_copy(folder, tmp_path / "copy", damage)
    told: list[tuple[str, int]] = []
    reading = Reading(damaged="replace", tell=lambda what, rows: told.append((what, rows)))
    whole = open_loader(copy, GREY, 64, 0, reading=reading)
    intact = open_loader(folder, GREY, 64, 0)
    parts = [open_loader(copy, GREY, 64, 0, rank, 3, reading=Reading(damaged="replace")) for rank in range(3)]
    open_loaders += [whole, intact, *parts]
    other = 0
    for step in range(2 * 2048 // 64):
        batch, expected = whole.batch(step).images, intact.batch(step).images
        assert torch.equal(torch.cat([part.batch(step).images for part in parts]), batch)
        other += int((batch != expected).flatten(1).any(1).sum())
        identities(images, [LocalBatch(0, batch, None, torch.empty(0))])  # All are images of the data set.
    assert len(whole.some(2048).images) < 2048  # What is damaged is left out.
    lost = sum(rows for _, rows in told)
    assert all("shard-00001-00002.arrow is damaged" in what for what, _ in told)
    assert lost == (8 if damage == "flipped" else 450)  # A block has eight rows here.
    assert lost <= other <= 2 * lost


def kept(cache: DiskCache, number: int) -> bool:
    """Whether block `number` is in the cache; it must be whole."""
    content = bytearray(100)
    found = cache.get(f"{number:04}", memoryview(content))
    assert not found or content == bytes([number]) * 100
    return found


def put(cache: DiskCache, number: int) -> bool:
    return cache.put(f"{number:04}", memoryview(bytes([number]) * 100))


def test_the_cache_keeps_within_its_limit_and_survives(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 350)
    assert [put(cache, number) for number in range(5)] == [True, True, True, False, False]
    assert kept(cache, 1)
    assert not kept(cache, 4)
    again = DiskCache(tmp_path, 350)
    assert kept(again, 2)
    assert not put(again, 5)
    idle = DiskCache(tmp_path, 350, idle_seconds=-1)  # Everything has been idle for longer than that.
    assert put(idle, 6)
    assert [number for number in range(7) if kept(idle, number)] == [1, 2, 6]  # 0 had been idle the longest.


def test_the_cache_is_shared_by_threads_and_objects(tmp_path: Path) -> None:
    caches = [DiskCache(tmp_path, 5_000) for _ in range(4)]

    def fill(which: int) -> None:
        for number in range(100):
            put(caches[which], number)

    threads = [threading.Thread(target=fill, args=(which,)) for which in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(file.stat().st_size for file in tmp_path.glob("??/*")) == 5_000
    assert sum(kept(caches[0], number) for number in range(100)) == 50
