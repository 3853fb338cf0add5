"""What is registered, on MLflow with SQLite: once for a run and step, and usable as its signature says."""

import json
import re
import sys
from io import BytesIO
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import requests
import torch
from mlflow import MlflowClient
from mlflow.entities import LoggedModel
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.scoring_server import invocations
from PIL import Image

from service.artifacts import registry, version_page
from service.artifacts.checkpoints import State
from service.artifacts.model_cache import pull
from service.artifacts.registry import ModelName
from service.configuration.config import Run
from service.configuration.recipe import load
from service.configuration.tree import dump
from service.generator import Generator
from service.tracking.run_page import Input
from service.tracking.tracker import log_metrics, start_run
from tests.patience import PATIENCE
from tests.runs.test_tracking import Server


def logged_model(server: MlflowClient, name: str, number: str) -> LoggedModel:
    """The logged model that a version is."""
    return server.get_logged_model(server.get_model_version(name, number).source.removeprefix("models:/"))


class Trained:
    """A run that has learnt nothing, in a registry of its own."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.run = load("digits", [f"storage={folder}", *words])
        self.uri = f"sqlite:///{folder}/mlflow.db"
        self.run_id = start_run(
            self.uri, "selfgan", "run", str(folder), {}, {}, (folder / "artifacts").as_uri(), resume=False
        )

    def register(self, step: int = 5, classes: tuple[str, ...] = ()) -> str:
        return registry.register(self.run, _state(self.run, step), self.uri, self.run_id, classes=classes)

    @property
    def versions(self) -> list[str]:
        return sorted(str(one.version) for one in MlflowClient(self.uri).search_model_versions())


def _state(run: Run, step: int) -> State:
    torch.manual_seed(step)
    generator = run.task.generator(run.network, run.image)
    for parameter in generator.parameters():  # Fresh ones are so small that all images are nearly grey.
        torch.nn.init.normal_(parameter, std=0.4)
    networks = {f"generator.{name}": value for name, value in generator.state_dict().items()}
    return State(step, networks, {}, {}, {}, {"recipe": run.recipe_hash, "data set": "hash"}, dump(run))


def test_a_run_registers_a_step_once_however_often_it_is_killed(tmp_path: Path) -> None:
    trained = Trained(tmp_path, "network.generator_channels=4")
    assert trained.register() == trained.register() == "models:/selfgan-digits/1"
    server = MlflowClient(trained.uri)
    for key in ("step", "recipe.hash", "git.commit"):  # As if it had been killed before it came to them.
        server.delete_model_version_tag("selfgan-digits", "1", key)
    assert trained.register() == "models:/selfgan-digits/1"
    tags = server.get_model_version("selfgan-digits", "1").tags
    assert tags["step"] == "5" and tags["recipe.hash"] == trained.run.recipe_hash and tags["git.commit"]
    assert trained.register(step=6) == "models:/selfgan-digits/2"  # The run has gone on.
    assert trained.versions == ["1", "2"]


def test_figures_belong_to_the_logged_model_and_are_read_on_its_versions_page(tmp_path: Path) -> None:
    trained, server = Trained(tmp_path, "network.generator_channels=4"), MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    name = ModelName.of(trained.register()).name
    data = Input("digits", "hash", f"{tmp_path}/manifest-1.json", 1, 1797, "evaluation")
    log_metrics(trained.uri, trained.run_id, 5, {"evaluation/fid": 9.0, "loss/real": 1.0})  # Beside the training.
    log_metrics(trained.uri, trained.run_id, 4, {"evaluation/kid": 1.0})
    version_page.adopt_figures(name, "1", trained.uri, data)
    assert [metric.value for metric in server.get_metric_history(trained.run_id, "evaluation/fid")] == [9.0]
    model = logged_model(server, name, "1").model_id
    assert [(one.key, one.value) for one in server.get_logged_model(model).metrics] == [("evaluation/fid", 9.0)]
    version_page.log_figures(name, "1", trained.uri, {"evaluation/fid": 8.0}, data)
    version_page.tag_logged_model(name, "1", trained.uri, {"promotion.verdict": "held"})
    logged = server.get_logged_model(model)
    assert logged.tags["promotion.verdict"] == "held"
    assert {(one.dataset_name, one.dataset_digest) for one in logged.metrics} == {("digits", "hash")}
    assert {one.value for one in logged.metrics} == {9.0, 8.0}
    assert server.get_run(trained.run_id).data.metrics["evaluation/fid"] == 8.0
    assert [one.dataset.digest for one in server.get_run(trained.run_id).inputs.dataset_inputs] == ["hash"]
    card = server.get_model_version(name, "1").description
    for figure in ("first", "second"):
        version_page.write_section(name, "1", trained.uri, "Figures", [figure])
        version_page.write_section(name, "1", trained.uri, "Promotion", ["held"])
    version_page.write_section(name, "1", trained.uri, "Long", ["x" * 5000])
    text = server.get_model_version(name, "1").description
    assert text == f"{card.rstrip()}\n\n## Figures\n\nsecond\n\n## Promotion\n\nheld\n"


def test_the_picture_of_a_card_is_where_the_page_asks_for_it(tmp_path: Path) -> None:
    trained = Trained(tmp_path, "network.generator_channels=4", "tracking.model=digits & more")
    trained.register()
    server = Server(tmp_path, "mlflow.db")
    text = MlflowClient(server.uri).get_model_version("digits & more", "1").description
    (place,) = re.findall(r"!\[Samples\]\((\S+)\)", text)
    answer = requests.get(f"{server.uri}/{place}", timeout=PATIENCE)
    server.stop()
    assert answer.headers["Content-Type"] == "image/png"
    assert Image.open(BytesIO(answer.content)).size[0] > 200


def test_a_class_may_be_chosen_for_some_rows_and_for_none(tmp_path: Path) -> None:
    trained = Trained(tmp_path, "network.generator_channels=4", "task=conditional")
    mlflow.set_tracking_uri(trained.uri)
    model = mlflow.pyfunc.load_model(trained.register())
    rows = {"n": [2, 3], "seed": [7, 8]}
    in_turn = model.predict(pd.DataFrame(rows))
    assert in_turn.shape == (5, 16, 16, 1) and in_turn.dtype == np.uint8
    for labels in ([3, None], [3.0, np.nan]):
        assert model.predict(pd.DataFrame({**rows, "label": labels})).shape == (5, 16, 16, 1)
    bound = model.predict(pd.DataFrame({**rows, "truncation": [None, 0.5]}))
    assert np.array_equal(bound[:2], in_turn[:2]) and not np.array_equal(bound[2:], in_turn[2:])
    with pytest.raises(Exception, match=r"truncation: 0\.0 is no bound"):
        model.predict(pd.DataFrame({"n": [1], "truncation": [0.0]}))
    with pytest.raises(Exception, match="ask for one or more"):
        model.predict(pd.DataFrame({"n": [0], "seed": [7]}))
    with pytest.raises(Exception, match="ask for at most 16,384 images in one request"):
        model.predict(pd.DataFrame({"n": [60_000, 6_000]}))
    assert np.array_equal(model.predict(pd.DataFrame({"n": [2]})), model.predict(pd.DataFrame({"n": [2], "seed": [0]})))


def test_names_of_classes_travel_with_the_model(tmp_path: Path) -> None:
    trained = Trained(tmp_path, "network.generator_channels=4", "task={name: conditional, classes: 3}")
    mlflow.set_tracking_uri(trained.uri)
    model = mlflow.pyfunc.load_model(trained.register(classes=("cat", "dog", "owl", "of no label")))
    generator = Generator.read(pull("models:/selfgan-digits/1", trained.uri, tmp_path / "cache"))
    assert generator.classes == ("cat", "dog", "owl")
    made = model.predict(pd.DataFrame({"n": [2, 2], "seed": [7, 7], "class": ["owl", None]}))
    assert np.array_equal(made[:2], model.predict(pd.DataFrame({"n": [2], "seed": [7], "label": [2.0]})))
    assert np.array_equal(made[2:], model.predict(pd.DataFrame({"n": [2], "seed": [7]})))
    with pytest.raises(Exception, match=r"no class is called 'own'; did you mean 'owl'\?"):
        model.predict(pd.DataFrame({"n": [1], "class": ["own"]}))
    with pytest.raises(Exception, match="a row has class 'owl' and label 1; give one of them"):
        model.predict(pd.DataFrame({"n": [1], "class": ["owl"], "label": [1.0]}))
    description = MlflowClient(trained.uri).get_model_version("selfgan-digits", "1").description
    assert "- classes, from label 0 on: cat, dog, owl\n" in description


def test_a_served_model_refuses_too_many_images_in_one_line(tmp_path: Path) -> None:
    trained = Trained(tmp_path, "network.generator_channels=4")
    mlflow.set_tracking_uri(trained.uri)
    model = mlflow.pyfunc.load_model(trained.register())
    asked = json.dumps({"dataframe_records": [{"n": 1_000_000, "seed": 7}]})
    with pytest.raises(MlflowException) as refused:
        invocations(asked, "application/json", model, model.metadata.get_input_schema())
    answer = json.loads(refused.value.serialize_as_json())
    assert refused.value.get_http_status_code() == 400
    assert answer["message"].splitlines()[-1] == "Error: n: ask for at most 16,384 images in one request"
    assert "stack_trace" not in answer


def test_loading_a_model_leaves_the_service_that_runs_in_its_place(tmp_path: Path) -> None:
    trained = Trained(tmp_path, "network.generator_channels=4")
    mlflow.set_tracking_uri(trained.uri)
    mlflow.pyfunc.load_model(trained.register())
    assert not [entry for entry in sys.path if entry.endswith("sources.zip")]


def test_a_translating_model_has_images_for_an_example(tmp_path: Path) -> None:
    words = ["task=info_cycle", "task.domains=2", "network=resnet", "network.channels=4", "network.blocks=1"]
    trained = Trained(tmp_path, *words, "data.transform.size=32")
    mlflow.set_tracking_uri(trained.uri)
    model = mlflow.pyfunc.load_model(trained.register())
    assert model.input_example.shape == (1, 32, 32, 1)
    assert model.predict(np.zeros((3, 32, 32, 1), np.uint8)).shape == (6, 32, 32, 1)
