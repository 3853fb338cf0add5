"""Figures as others report them: of more images than there are real ones, against all of these, by one switch."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from scipy import linalg
from torch import Tensor, nn

from pipelines.evaluate import evaluation
from pipelines.evaluate.__main__ import main, reporting
from pipelines.evaluate.evaluation import evaluate
from pipelines.evaluate.protocol import Protocol, protocol
from pipelines.evaluate.registered import judge
from pipelines.evaluate.sides import Side, Work, features_of, features_of_side, in_turn, joined
from pipelines.loading.loader import open_loader
from pipelines.quality.features import Features
from pipelines.quality.features.classifier import Classifier
from pipelines.quality.features.dinov2 import Dinov2
from pipelines.quality.features.inception import Inception
from pipelines.quality.figures import Figures, table
from pipelines.quality.metrics import moments, neighbourhoods
from service.artifacts.registry import ModelName
from service.configuration.config import Run
from service.configuration.recipe import load
from service.configuration.tree import dump
from tests.conftest import called
from tests.made_data import encoded, write_folder
from tests.retraining.test_evaluation import QUIET, SMALL, generator_of, run_of
from tests.runs.test_registry import Trained

ROWS = 1797
BRIEF = "evaluation.features.steps=4"


def asked(storage: Path, *words: str) -> Run:
    """For an evaluation in features that have hardly been trained."""
    return run_of(storage, BRIEF, *words)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Protocol:
    return protocol(asked(tmp_path_factory.mktemp("reported"), "evaluation.real=all"), QUIET)


class Telling(nn.Module):
    """Four means as features, and logits of three classes."""

    def forward(self, images: Tensor) -> Features:
        values = images.float().flatten(2).unflatten(2, (4, -1)).mean(3)[:, 0]
        return Features(values, torch.full((len(values),), -1), values[:, :3] / 10)


def test_the_frechet_distance_is_to_all_real_images(judged: Protocol, tmp_path: Path) -> None:
    generator = generator_of(judged.run, tmp_path)
    found = evaluate(judged, generator)
    assert (found.samples, found.real, found.features) == (300, ROWS, judged.features)
    assert found.counted == "300 generated images and all 1,797 real ones"
    side = Side(dump(judged.run), judged.data, judged.extractor, generator)
    made = features_of(Work(side, range(3), 100)).values.double().numpy()
    loader = open_loader(judged.reference.folder, judged.reference.transform, 1, 0)
    real = judged.extractor(loader.rows(0, ROWS).images)[0].double().numpy()
    loader.close()
    centred = [(one - one.mean(0)) / np.sqrt(len(one) - 1) for one in (real, made)]
    expected = ((real.mean(0) - made.mean(0)) ** 2).sum() + sum((one**2).sum() for one in centred)
    expected -= 2 * linalg.svdvals(centred[0] @ centred[1].T).sum()  # The trace of the root, of singular ones too.
    assert found.fid == pytest.approx(expected, rel=1e-6)


def test_other_figures_are_to_the_sample_as_without_it(judged: Protocol, tmp_path: Path) -> None:
    generator = generator_of(judged.run, tmp_path)
    other = protocol(asked(Path(judged.run.storage)), QUIET)
    whole, sampled = evaluate(judged, generator), evaluate(other, generator)
    assert sampled.real is None and sampled.counted == "300 images on each side"
    alike = {name for name, value in whole.figures.items() if sampled.figures[name] == value}
    assert alike == whole.figures.keys() - {"fid"}
    assert whole.fingerprint != sampled.fingerprint


def test_neighbourhoods_of_a_report_are_of_so_many_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "MOST_NEIGHBOURHOODS", 50)
    generator = torch.Generator().manual_seed(6)
    real, made = (Features(torch.randn(120, 4, generator=generator), torch.full((120,), -1)) for _ in range(2))
    report = evaluation.compared(real, made, "", moments([real.values]))
    expected = neighbourhoods(real.values[:50], made.values[:50])
    assert (report.precision, report.recall, report.density, report.coverage) == expected
    assert report.kid == evaluation.compared(real, made, "").kid


def test_more_images_are_generated_than_there_are(judged: Protocol) -> None:
    storage = Path(judged.run.storage)
    more = protocol(asked(storage, "evaluation.real=all", "evaluation.samples=2100"), QUIET)
    assert (more.samples, more.sampled, more.rows) == (2100, 1700, ROWS)
    assert protocol(asked(storage, "evaluation.samples=2100"), QUIET).samples == 1700


def test_all_real_images_are_looked_at_once_for_a_version(judged: Protocol, tmp_path: Path) -> None:
    generator = generator_of(judged.run, tmp_path)
    evaluate(judged, generator)
    storage, looked = Path(judged.run.storage), list[Side]()

    def noting(function: object, works: list[Work]) -> Iterator[tuple[int, Features]]:
        for number, work in enumerate(works):
            looked.append(work.side)
            yield number, features_of(work)

    other = protocol(asked(storage, "evaluation.real=all", "evaluation.samples=200"), QUIET)
    assert other.fingerprint != judged.fingerprint and other.moments_file == judged.moments_file
    found = evaluate(other, generator, noting)
    assert found.real == ROWS and not any(side.whole for side in looked)


@pytest.mark.parametrize("whole", [True, False])
def test_tasks_that_end_in_any_order_give_the_same_features(judged: Protocol, whole: bool) -> None:
    def backwards(function: object, works: list[Work]) -> Iterator[tuple[int, Features]]:
        assert len(works) > 2
        for number in reversed(range(len(works))):
            yield number, features_of(works[number])

    side = Side(dump(judged.run), judged.data, Telling(), whole=whole)
    here, there = (joined(features_of_side(side, 1200, tasks)) for tasks in (in_turn, backwards))
    assert torch.equal(here.values, there.values)


def test_evaluations_of_before_have_their_fingerprints(judged: Protocol) -> None:
    run = asked(Path(judged.run.storage))
    described = {
        "features": judged.features,
        "manifests": [judged.reference.manifest.hash],
        "transform": run.data.transform.model_dump(),
        "task": "conditional" if run.task.chosen else "unconditional",
        "samples": 300,
        "seed": 0,
        "neighbours": 5,
        "batch": 100,
    }
    expected = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]
    now = protocol(run, QUIET)
    assert now.fingerprint == expected
    assert now.sample_file.path.endswith(f"reference-{expected}.safetensors")


def test_a_data_set_that_ends_first_is_whole(tmp_path: Path) -> None:
    """Of two domains, where generated images are compared with the smaller one."""
    write_folder(tmp_path / "photos", {f"{number}.png": encoded() for number in range(130)})
    words = ["task=unpaired", "network=resnet", "network.channels=4", "network.blocks=1", "batch.size=4"]
    domains = f"data.domains=[{{source: {{name: folder, uri: '{tmp_path}/photos'}}}}]"
    sizes = ["data.transform.size=32", "evaluation.real=all"]
    judged = protocol(asked(tmp_path, *words, domains, *sizes), QUIET)
    assert (judged.samples, judged.rows) == (100, ROWS)
    side = Side(dump(judged.run), judged.data, Telling(), whole=True)
    parts = [part.values for part in features_of_side(side, ROWS, in_turn) if len(part.values)]
    assert sum(map(len, parts)) == 130


def test_classes_that_features_know_give_an_inception_score(judged: Protocol, tmp_path: Path) -> None:
    other = protocol(asked(Path(judged.run.storage)), QUIET)
    kept = other.reference.kept / "telling.safetensors"
    telling = dataclasses.replace(other, extractor=Telling(), sample_file=kept)
    generator = generator_of(judged.run, tmp_path)
    found = evaluate(telling, generator)
    side = Side(dump(telling.run), telling.data, telling.extractor, generator)
    logits = joined([features_of(Work(side, range(3), 100))]).logits
    assert logits is not None
    given = logits.double().softmax(1).numpy()
    scores = [np.exp((part * np.log(part / part.mean(0))).sum(1).mean()) for part in np.split(given, 10)]
    assert found.inception_score == pytest.approx(np.mean(scores), rel=1e-9)
    assert found.inception_score_deviation == pytest.approx(np.std(scores), rel=1e-9)
    assert found.class_coverage is None
    assert evaluate(judged, generator).inception_score is None


def test_figures_of_before_are_read_and_shown_beside_new_ones() -> None:
    before = Figures.model_validate_json(
        '{"fingerprint": "a", "samples": 20, "fid": 3.5, "kid": 0.25, "kid_error": 0.1, "precision": 0.5, '
        '"recall": 0.5, "density": 1.0, "coverage": 0.5}'
    )
    now = before.model_copy(update={"inception_score": 8.0, "inception_score_deviation": 0.5})
    assert "inception_score" not in before.figures and before.counted == "20 images on each side"
    assert "| inception_score | higher | 8 | - |" in table({"candidate": now, "champion": before})


def test_a_report_is_by_clean_fids_protocol_unless_words_say_otherwise(tmp_path: Path) -> None:
    def found_of(*words: str) -> tuple[int, str, object]:
        given = [f"storage={tmp_path}", *words]
        found = reporting(load("digits", given), given).evaluation
        return found.samples, found.real, found.features

    clean = Inception(resize="clean")
    assert found_of() == (50_000, "all", clean)
    assert found_of("evaluation.samples=10000", "evaluation.real=sample") == (10_000, "sample", clean)
    assert found_of("evaluation={samples: 10000, real: sample}") == (10_000, "sample", clean)
    assert found_of("evaluation.features.weights=x") == (50_000, "all", Inception(resize="clean", weights="x"))
    assert found_of("evaluation.features.resize=tensorflow") == (50_000, "all", Inception())
    assert found_of("evaluation.features={name: inception, resize: tensorflow}") == (50_000, "all", Inception())
    assert found_of("evaluation.features=inception") == found_of("evaluation.features.name=inception") == found_of()
    assert found_of("evaluation.features={name: dinov2, weights: y}") == (50_000, "all", Dinov2(weights="y"))
    assert found_of("evaluation.features.name=classifier") == (50_000, "all", Classifier())


def test_a_report_leaves_the_figures_that_a_promotion_goes_by(tmp_path: Path) -> None:
    trained = Trained(tmp_path, "network.generator_channels=4")
    name, server = ModelName.of(trained.register()).name, MlflowClient(trained.uri)
    few = "evaluation.samples=100"
    usual = judge(protocol(asked(tmp_path, few), QUIET), f"models:/{name}/1")
    report = judge(protocol(asked(tmp_path, few, "evaluation.real=all"), QUIET), f"models:/{name}/1", for_others=True)
    assert report.fid != usual.fid
    metrics = server.get_run(trained.run_id).data.metrics
    assert (metrics["evaluation/fid"], metrics["report/fid"]) == (usual.fid, report.fid)
    version = server.get_model_version(name, "1")
    assert version.tags["evaluation.fingerprint"] == usual.fingerprint
    assert version.tags["report.fingerprint"] == report.fingerprint
    sections = version.description.split("\n## ")[-2:]
    assert sections[0].startswith("Figures\n") and usual.fingerprint in sections[0]
    assert sections[1].startswith("Figures to publish\n") and report.fingerprint in sections[1]


@pytest.mark.long
def test_a_report_of_a_registered_model(tmp_path: Path, ray_cluster: tuple[str, str]) -> None:
    Trained(tmp_path).register()
    words = [f"storage={tmp_path}", "evaluation.samples=200", SMALL[1], BRIEF]
    code, out, err = called(main, "digits", "models:/selfgan-digits/1", "--report", *words, address=ray_cluster[0])
    assert code == 0, out + err
    shown = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert shown["of"] == "200 generated images and all 1,797 real ones"
    assert shown["features"].startswith("classifier-") and float(shown["fid"]) > 0
