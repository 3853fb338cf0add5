"""The roles of infra/terraform, enforced: who may do what with the bucket."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from botocore.exceptions import ClientError

from pipelines.storage.location import Location
from tests.deployment import roles
from tests.deployment.roles import PERSON, Store

pytestmark = pytest.mark.long

BUCKET = "selfgan"
FOLDERS = ("sources", "shards", "runs", "evaluations", "mlflow", "backups")
#: role -> (folders that it reads and lists, folders that it writes)
RIGHTS = {
    "ingest": ({"sources", "shards"}, {"shards"}),
    "training": ({"shards", "runs", "evaluations"}, {"runs", "evaluations"}),
    "mlflow": ({"mlflow"}, {"mlflow"}),
    "backup": (set[str](), {"backups"}),
    PERSON: (set(FOLDERS), set(FOLDERS)),
}


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    with roles.store(BUCKET) as found:
        for folder in FOLDERS:
            found.put(f"{folder}/a/1", b"1")
        yield found


def allowed(call: Callable[..., object], *given: object) -> bool:
    try:
        call(*given)
    except (OSError, ClientError) as error:
        assert "Access Denied" in str(error) or "ACCESS_DENIED" in str(error) or "403" in str(error), error
        return False
    return True


@pytest.mark.parametrize("role", RIGHTS)
def test_a_role_reads_and_writes_its_folders_and_no_other(
    store: Store, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the calls of the service: pyarrow's and boto3's."""
    store.become(role, monkeypatch)
    places = {folder: Location.of(f"s3://{BUCKET}/{folder}/a") for folder in FOLDERS}
    reads, writes = RIGHTS[role]
    client = store.client(role)

    def remove(folder: str) -> None:
        client.delete_object(Bucket=BUCKET, Key=f"{folder}/a/2")

    assert {folder for folder, place in places.items() if allowed((place / "1").read)} == reads
    assert {folder for folder, place in places.items() if allowed(lambda at: list(at.files()), place)} == reads
    assert {folder for folder, place in places.items() if allowed((place / "2").write, b"2")} == writes
    assert {folder for folder in FOLDERS if allowed(remove, folder)} == (writes if role != "backup" else set())


@pytest.mark.parametrize("role", ["ingest", "training"])
def test_what_is_missing_is_missing_and_not_forbidden(store: Store, role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store.become(role, monkeypatch)
    folder = {"ingest": "shards", "training": "runs"}[role]
    assert not Location.of(f"s3://{BUCKET}/{folder}/none/1").exists()
    with pytest.raises(FileNotFoundError):
        Location.of(f"s3://{BUCKET}/{folder}/none/1").read()
    place = Location.of(f"s3://{BUCKET}/{folder}/{role}")
    assert (place / "claim").create(b"1") and not (place / "claim").create(b"2")
    place.delete()
    assert not allowed(lambda: store.client(role).list_objects_v2(Bucket=BUCKET, Prefix=""))
    assert not allowed(lambda: store.client(role).delete_bucket(Bucket=BUCKET))
