"""Fetched models: once each, there while the server is away, and never another registry's."""

from pathlib import Path

import pytest

from service.artifacts import model_cache, registry
from service.tracking.tracker import TrackingError


class Server:
    """A registry of one model, in place of MLflow's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.champion, self.run, self.away, self.fetched = "1", "first", False, 0
        monkeypatch.setattr(registry, "version_of", self.version_of)
        monkeypatch.setattr(registry, "run_of", lambda *_: self.run)
        monkeypatch.setattr(registry, "fetch", self.fetch)

    def version_of(self, uri: str, tracking_uri: str) -> str:
        if self.away:
            raise TrackingError(f"{tracking_uri} does not answer")
        return registry.ModelName.of(uri).version or self.champion

    def fetch(self, uri: str, tracking_uri: str, target: Path) -> None:
        self.fetched += 1
        (target / "artifacts" / "generator").mkdir(parents=True)
        (target / "artifacts" / "generator" / "weights").write_text(f"{tracking_uri} {uri} {self.run}")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    return Server(monkeypatch)


def pulled(cache: Path, uri: str = "models:/m@champion", tracking_uri: str = "http://a") -> str:
    return (model_cache.pull(uri, tracking_uri, cache) / "weights").read_text()


def test_a_model_is_fetched_once_and_an_alias_is_followed(server: Server, tmp_path: Path) -> None:
    assert pulled(tmp_path) == pulled(tmp_path) == pulled(tmp_path, "models:/m/1") == "http://a models:/m/1 first"
    assert server.fetched == 1
    server.champion = "2"
    assert pulled(tmp_path) == "http://a models:/m/2 first"


def test_while_the_server_is_away_the_last_one_is_taken(server: Server, tmp_path: Path) -> None:
    before = pulled(tmp_path)
    server.away = True
    assert pulled(tmp_path) == before
    with pytest.raises(TrackingError):
        pulled(tmp_path, "models:/m/1")  # Never asked for by this name, so that nothing is known of it.
    with pytest.raises(TrackingError):
        pulled(tmp_path, tracking_uri="http://b")


def test_the_same_version_of_another_registry_is_another_model(server: Server, tmp_path: Path) -> None:
    pulled(tmp_path)
    assert pulled(tmp_path, tracking_uri="http://b") == "http://b models:/m/1 first"
    server.run = "begun anew"
    assert pulled(tmp_path) == "http://a models:/m/1 begun anew"


@pytest.mark.parametrize("uri", ["m@champion", "models:/", "models:/m@", "models:/m/one", "models:/m/1@champion"])
def test_what_names_no_model_is_refused(server: Server, uri: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="names no model"):
        pulled(tmp_path, uri)
