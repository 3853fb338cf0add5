"""Evaluations: the same figures from any number of tasks, references that are kept, and what is refused."""

import hashlib
from pathlib import Path

import pytest
import ray
import torch
from mlflow import MlflowClient
from rich.console import Console

from pipelines.components import ConfigError
from pipelines.data.images import Transform
from pipelines.data.ingest import ingest
from pipelines.data.ray_tasks import on_devices
from pipelines.data.sources.folder import Folder
from pipelines.evaluate.evaluation import compared, evaluate
from pipelines.evaluate.protocol import Protocol, protocol
from pipelines.evaluate.sides import Side, Work, features_of
from pipelines.quality.features import Features, Reference
from pipelines.quality.features.classifier import Classifier
from pipelines.quality.features.inception import Inception
from pipelines.storage.location import Location
from service.configuration.config import Run
from service.configuration.recipe import load
from service.configuration.tree import dump
from service.generator import Generator, save
from service.train import main
from tests.conftest import called
from tests.made_data import encoded, write_folder
from tests.runs.test_registry import logged_model

SMALL = ["evaluation.samples=300", "evaluation.features.name=classifier", "evaluation.features.steps=40"]
QUIET = Console(quiet=True)


def run_of(storage: Path, *words: str) -> Run:
    given = dict(word.split("=", 1) for word in [f"storage={storage}", *SMALL, *words])
    return load("digits", [f"{key}={value}" for key, value in given.items()])


def generator_of(run: Run, folder: Path, seed: int = 0) -> Generator:
    """One that has learnt nothing."""
    torch.manual_seed(seed)
    weights = run.task.generator(run.network, run.image).state_dict()
    described = {name: dump(run)[name] for name in ("network", "task")}
    save(folder, {**described, "image": list(run.image)}, {"generator": weights})
    return Generator.read(folder)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Protocol:
    return protocol(run_of(tmp_path_factory.mktemp("evaluation")), QUIET)


def test_tasks_on_ray_give_the_figures_of_this_process(
    judged: Protocol, tmp_path: Path, ray_cluster: tuple[str, str]
) -> None:
    generator = generator_of(judged.run, tmp_path)
    here = evaluate(judged, generator)
    kept = next(file for file in judged.reference.kept.files() if file.name.startswith("reference"))
    (judged.reference.kept / kept.name).delete()  # So that the tasks look at real images too.
    ray.init(address=ray_cluster[0], runtime_env={"working_dir": None, "env_vars": {}}, log_to_driver=False)
    try:
        there = evaluate(judged, generator, on_devices)
    finally:
        ray.shutdown()
    assert here.figures == pytest.approx(there.figures, rel=1e-4)
    assert here.fingerprint == there.fingerprint


def test_what_is_asked_of_the_data_is_computed_once_for_a_version(judged: Protocol, tmp_path: Path) -> None:
    calls: list[Side] = []

    def counting(function: object, works: list[Work]):  # type: ignore[no-untyped-def]
        for number, work in enumerate(works):
            calls.append(work.side)
            yield number, features_of(work)

    for name in ("reference", "other reference"):
        for file in judged.reference.kept.files():
            if file.name.startswith("reference") and name == "reference":
                (judged.reference.kept / file.name).delete()
        evaluate(judged, generator_of(judged.run, tmp_path), counting)
    assert [side.generator is None for side in calls] == [True, False, False]
    again = protocol(judged.run, QUIET)
    assert again.fingerprint == judged.fingerprint


def test_every_change_of_the_protocol_is_another_evaluation(judged: Protocol) -> None:
    storage = Path(judged.run.storage)
    changes = ["evaluation.samples=200", "evaluation.seed=1", "evaluation.features.steps=41"]
    found = {protocol(run_of(storage, change), QUIET).fingerprint for change in changes}
    assert len(found | {judged.fingerprint}) == len(changes) + 1


def test_real_images_are_nearer_than_noise_and_a_half_of_the_classes_is_half_covered(judged: Protocol) -> None:
    real = features_of(Work(Side(dump(judged.run), judged.data, judged.extractor, None), range(6), 50))
    odd, even = (Features(real.values[at::2], real.classes[at::2]) for at in (0, 1))
    near = compared(odd, even, "")
    far = compared(odd, Features(torch.rand_like(even.values) * 20, even.classes), "")
    assert near.fid < far.fid / 10 and near.kid < far.kid / 10
    assert near.precision > 0.7 > 0.1 > far.precision and near.coverage > 0.7 > 0.1 > far.coverage
    few = even.classes < 5
    half = compared(odd, Features(even.values[few], even.classes[few]), "")
    assert half.class_coverage == 0.5
    assert half.recall < near.recall


def test_a_model_of_other_images_is_refused(judged: Protocol, tmp_path: Path) -> None:
    generator = generator_of(run_of(tmp_path, "data.transform.size=32"), tmp_path)
    with pytest.raises(ConfigError, match="makes images of 1x32x32, and the data are 1x16x16"):
        evaluate(judged, generator)


def test_too_few_images_are_refused(judged: Protocol) -> None:
    with pytest.raises(ConfigError, match=r"evaluation\.samples"):
        run_of(Path(judged.run.storage), "evaluation.samples=10")


def test_a_translating_model_is_compared_with_the_other_domain(tmp_path: Path) -> None:
    words = [
        "task=unpaired",
        "network=resnet",
        "network.channels=4",
        "network.blocks=1",
        "batch.size=4",
        "data.transform.size=32",
    ]
    domains = "data.domains=[{source: digits}]"
    run = run_of(tmp_path, *words, domains)
    judged = protocol(run, QUIET)
    found = evaluate(judged, generator_of(run, tmp_path / "model"))
    assert found.samples == 300 and found.fid > 0


def test_inceptions_weights_are_the_users_and_checked(judged: Protocol, tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"

    def opened(**options: str) -> None:
        Inception.model_validate({"weights": str(file), **options}).open(judged.reference, print)

    with pytest.raises(ConfigError, match=r"cannot be read.*fetch https"):
        opened()
    file.write_bytes(b"not weights")
    with pytest.raises(ConfigError, match=r"has SHA-256 .*, not 6726825d"):
        opened()
    try:
        import torch_fidelity  # noqa: F401
    except ImportError:
        with pytest.raises(ConfigError, match=r"selfgan\[inception\]"):
            opened(sha256=hashlib.sha256(b"not weights").hexdigest())


def test_a_data_set_without_labels_cannot_have_a_classifier(tmp_path: Path) -> None:
    write_folder(tmp_path / "photos", {f"{number}.png": encoded() for number in range(24)})
    folder, transform = Location.of(str(tmp_path / "shards")), Transform(size=16)
    manifest = ingest(Folder(uri=str(tmp_path / "photos")), transform, folder)
    with pytest.raises(ConfigError, match="no labels to tell apart"):
        Classifier().open(Reference(folder, manifest, transform, folder / "evaluations"), print)


@pytest.mark.long
def test_checkpoints_are_measured_while_training_goes_on(tmp_path: Path, ray_cluster: tuple[str, str]) -> None:
    words = ["steps=8", "checkpoints.every=4", "checkpoints.score_images=16", "cluster.cpus_per_replica=1"]
    words += ["evaluation.samples=40", *SMALL[1:]]
    storage = [f"storage={tmp_path}", "name=judged", "evaluation.during_training=true"]
    code, out, err = called(main, "digits", *words, *storage, address=ray_cluster[0])
    assert code == 0, out + err
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("selfgan").experiment_id])
    for name in ("fid", "kid", "kid_error", "precision", "recall", "density", "coverage", "class_coverage"):
        measured = client.get_metric_history(run.info.run_id, f"evaluation/{name}")
        assert [metric.step for metric in measured] == [4, 8], name
    logged = {one.key: one for one in logged_model(client, "selfgan-digits", "1").metrics}
    assert logged["evaluation/fid"].step == 8
    assert logged["evaluation/fid"].dataset_digest == run.data.tags["manifest.hash"]
