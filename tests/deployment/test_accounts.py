"""The user that trainings log in to MLflow as: it can do what they do, and no more."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.server.auth.client import AuthServiceClient
from mlflow.server.auth.sqlalchemy_store import SqlAlchemyStore
from PIL import Image

from service.artifacts import registry, version_page
from service.configuration.recipe import load
from service.tracking.accounts import main
from service.tracking.delivery import Tracker
from service.tracking.journal import Journal
from service.tracking.run_page import Input
from service.tracking.tracker import TrackingError, discard_run, finish_run, history, start_run
from tests.conftest import called
from tests.mlflow_server import ADMINISTRATOR, TRAININGS, database, mlflow_server
from tests.patience import PATIENCE
from tests.runs.test_registry import _state as state_of

DATA = Input("digits", "hash", "s3://bucket/shards/manifest-1.json", 1, 1797, "evaluation")


def users_of(folder: Path) -> SqlAlchemyStore:
    users = SqlAlchemyStore()
    users.init_db(database(folder))
    return users


def test_the_user_is_made_once_and_its_password_is_the_last_one_said(tmp_path: Path) -> None:
    server = MlflowClient(database(tmp_path))
    server.create_experiment("selfgan")
    server.create_registered_model("selfgan-digits")
    server.create_registered_model("another")
    for password in ("first-password", "first-password", "second-password"):
        code, out, err = called(
            main, database(tmp_path), MLFLOW_TRACKING_USERNAME="trainings", MLFLOW_TRACKING_PASSWORD=password
        )
        assert (code, err) == (0, "")
        assert out == "trainings may log in, and owns experiment selfgan, model selfgan-digits\n"
    users = users_of(tmp_path)
    assert [(user.username, user.is_admin) for user in users.list_users()] == [("trainings", False)]
    assert users.authenticate_user("trainings", "second-password")
    assert not users.authenticate_user("trainings", "first-password")
    assert [one.name for one in users.list_registered_model_permissions("trainings")] == ["selfgan-digits"]


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    users_of(tmp_path).create_user("admin", "a-password-of-theirs", is_admin=True)
    for username, password, code, said in (
        ("admin", "another-password", 2, "admin is an administrator of MLflow"),
        ("trainings", "short", 1, "Password must be at least 12 characters"),
        ("trainings", "", 2, "set both"),
    ):
        found, _, err = called(
            main, database(tmp_path), MLFLOW_TRACKING_USERNAME=username, MLFLOW_TRACKING_PASSWORD=password
        )
        assert (found, err.count("\n"), said in err) == (code, 1, True), err
    users = users_of(tmp_path)
    assert [user.username for user in users.list_users()] == ["admin"]
    assert users.authenticate_user("admin", "a-password-of-theirs")


class Tracking(NamedTuple):
    """A server, and what others have on it: an experiment's id, and the id of a run there."""

    uri: str
    experiment: str
    run: str


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracking]:
    """MLflow, on which an administrator had trained before there was a user for that; others are there too."""
    folder = tmp_path_factory.mktemp("mlflow")
    before = MlflowClient(database(folder))
    before.create_experiment("selfgan", "mlflow-artifacts:/1")
    before.create_registered_model("selfgan-digits")
    experiment = before.create_experiment("others", "mlflow-artifacts:/2")
    run = before.create_run(experiment).info.run_id
    before.create_registered_model("others")
    before.create_model_version("others", "mlflow-artifacts:/2", run)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in TRAININGS.items():
            patch.setenv(name, value)
        with mlflow_server(folder, dict(os.environ), str(folder / "artifacts")) as uri:
            yield Tracking(uri, experiment, run)


@pytest.mark.long
def test_trainings_do_all_that_they_do(tracking: Tracking, tmp_path: Path) -> None:
    """On an experiment that an administrator made, and on one of their own."""
    uri = tracking.uri
    for experiment, model in (("selfgan", "selfgan-digits"), ("mine", "mine")):
        words = ["network.generator_channels=4", f"storage={tmp_path}", f"tracking.model={model}"]
        run = load("digits", words)
        run_id = start_run(uri, experiment, "run", str(tmp_path / experiment), {"a": 1}, {}, None, False, {}, [DATA])
        tracker = Tracker(uri, run_id, Journal(tmp_path / f"{experiment}.jsonl"))
        tracker.metrics(5, {"loss/real": 0.5})
        picture = tmp_path / "grid.png"
        Image.new("L", (64, 64)).save(picture)
        tracker.file(picture, "samples")
        tracker.picture(picture, "samples", 5)
        assert tracker.close(PATIENCE) == 0 and tracker.problem is None
        for _ in range(2):
            number = registry.register(run, state_of(run, 5), uri, run_id).rpartition("/")[2]
        assert number == "1"
        registry.point(model, "champion", number, uri)
        version_page.log_figures(model, number, uri, {"evaluation/fid": 9.0}, DATA)
        version_page.write_section(model, number, uri, "Figures", ["9"])
        version_page.tag_logged_model(model, number, uri, {"promotion.verdict": "promoted"})
        registry.tag(model, number, uri, {"promotion.verdict": "promoted"})
        registry.fetch(f"models:/{model}@champion", uri, tmp_path / model)
        finish_run(uri, run_id, "FINISHED", {"model": number})
        assert history(uri, run_id) == [(5, {"loss/real": 0.5, "evaluation/fid": 9.0})]
        discard_run(uri, start_run(uri, experiment, "never", str(tmp_path / "never"), {}, {}, None, False))
        assert registry.pointed(model, "champion", uri) == "1"


REFUSED: dict[str, Callable[[MlflowClient, AuthServiceClient, Tracking], Any]] = {
    "delete others' experiments": lambda server, _, at: server.delete_experiment(at.experiment),
    "change others' experiments": lambda server, _, at: server.set_experiment_tag(at.experiment, "a", "b"),
    "add runs to others' experiments": lambda server, _, at: server.create_run(at.experiment),
    "change others' runs": lambda server, _, at: server.log_metric(at.run, "a", 1),
    "delete others' runs": lambda server, _, at: server.delete_run(at.run),
    "put files into others' runs": lambda server, _, at: server.log_text(at.run, "a", "a.txt"),
    "delete others' models": lambda server, _, at: server.delete_registered_model("others"),
    "promote others' models": lambda server, _, at: server.set_registered_model_alias("others", "champion", "1"),
    "add versions to others' models": lambda server, _, at: server.create_model_version("others", "s3://a", at.run),
    "read users": lambda _, users, at: users.get_user("admin"),
    "make users": lambda _, users, at: users.create_user("another", "a-long-password"),
    "delete users": lambda _, users, at: users.delete_user("admin"),
    "change passwords of others": lambda _, users, at: users.update_user_password("admin", "a-long-password"),
    "become administrators": lambda _, users, at: users.update_user_admin("trainings", True),
    "give themselves rights": lambda _, users, at: users.grant_user_permission(
        "trainings", "experiment", at.experiment, "MANAGE"
    ),
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("what", REFUSED)
def test_trainings_cannot(tracking: Tracking, what: str) -> None:
    server, users = MlflowClient(tracking.uri), AuthServiceClient(tracking.uri)
    with pytest.raises((MlflowException, requests.HTTPError), match=r"Permission denied|403"):
        REFUSED[what](server, users, tracking)


@pytest.mark.long
def test_others_see_what_trainings_make_and_nobody_without_a_password(
    tracking: Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong-password")
    with pytest.raises(TrackingError):
        registry.version_of("models:/selfgan-digits", tracking.uri)
    for name, value in ADMINISTRATOR.items():
        monkeypatch.setenv(name, value)
    AuthServiceClient(tracking.uri).create_user("reader", "password-of-a-reader")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "reader")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "password-of-a-reader")
    server = MlflowClient(tracking.uri)
    assert server.get_registered_model("selfgan-digits").name == "selfgan-digits"
    with pytest.raises(MlflowException, match=r"Permission denied|403"):
        server.delete_registered_model("selfgan-digits")
