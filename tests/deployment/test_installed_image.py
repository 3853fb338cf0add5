"""The image's cpu target, made by the Dockerfile's own commands, and run as a pod runs it. No engine is needed.

What is left to an engine is Debian's part: the base image, `wget`, and the user.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import ROOT
from tests.deployment import containers
from tests.deployment.test_image import read_dockerfile, stages_of

pytestmark = pytest.mark.long

TRAIN = [
    "digits", "steps=4", "network=mlp", "network.generator_widths=[8]", "network.critic_widths=[8]", "batch.size=8",
    "logging.samples_every=4", "checkpoints.every=4", "replicas=1", "cluster.cpus_per_replica=1",
    "storage=/home/selfgan/runs",
]  # fmt: skip


class Image(NamedTuple):
    """Where the target lies: what is installed, and the code in /app."""

    packages: Path
    app: Path

    def run(self, script: str) -> str:
        settings = [rest for name, rest in stages_of(read_dockerfile())["base"] if name == "ENV"]
        given = dict(word.split("=", 1) for rest in settings for word in shlex.split(rest))
        given["PATH"] = f"{self.packages / 'bin'}:/usr/bin:/bin"
        try:
            done = containers.run(script, [containers.interpreter(), self.packages, self.app], self.app, given)
        except containers.NoContainersError as error:
            pytest.skip(f"IMAGE INSTALLED, AND NOT RUN: {error}")
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def pip_commands(stage: str) -> list[str]:
    """Each call of pip in a stage."""
    runs = [rest for name, rest in stages_of(read_dockerfile())[stage] if name == "RUN"]
    return [command.strip() for rest in runs for command in rest.split("&&") if command.strip().startswith("pip ")]


def pip(environment: Path, command: str, cwd: Path, paths: Mapping[str, str]) -> None:
    """Runs such a call where its paths are others, and without the index that only the build of the image can reach."""
    command = re.sub(r" --extra-index-url \S+", "", command)
    for old, new in paths.items():
        command = command.replace(old, new)
    given = {**os.environ, "PATH": f"{environment / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", command], cwd=cwd, env=given, capture_output=True, text=True, check=False)
    if "No matching distribution found for torch==" in done.stderr:
        pytest.skip(f"IMAGE NOT INSTALLED: no index here has its torch: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    folder = tmp_path_factory.mktemp("image")
    packages, builder, app, wheels = (folder / name for name in ("local", "builder", "app", "wheels"))
    for environment in (packages, builder):
        python = containers.interpreter() / "bin" / "python3"
        subprocess.run([str(python), "-m", "venv", str(environment)], check=True)
    app.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, app)
    for name in ("service", "pipelines"):
        shutil.copytree(ROOT / name, app / name, ignore=shutil.ignore_patterns("__pycache__"))
    infra = {target: str(ROOT / "infra" / f"requirements-{target}.txt") for target in ("cpu", "build")}
    paths = {"/tmp/wheels": str(wheels), "/install": str(packages)}
    for command in pip_commands("packages-cpu"):
        pip(packages, command, app, {**paths, "/tmp/requirements.txt": infra["cpu"]})
    for command in pip_commands("code"):
        into_image = "/install" in command
        pip(packages if into_image else builder, command, app, {**paths, "/tmp/requirements.txt": infra["build"]})
    yield Image(packages, app)
    shutil.rmtree(folder)  # Gigabytes, of which pytest would keep three.


def test_a_pod_can_write_to_its_own_folders_alone(image: Image) -> None:
    said = image.run(
        "id -u; touch /tmp/a /dev/shm/a ~/a; ls -A ~\n"
        f"for file in /a /app /etc/a /usr/a {image.app}/a {image.packages}/a; do touch $file 2>&1 || true; done"
    )
    assert said.splitlines()[:2] == ["1000", "a"]
    assert said.count("Read-only file system") == 6


def test_it_has_all_commands_that_pods_run(image: Image) -> None:
    image.run(
        "selfgan --help; ray --version; mlflow --version; python -m pipelines.rayjob --help\n"
        "python -m pipelines ingest --help; python -m pipelines.storage.upload --help; python -c 'import psycopg2'\n"
        "python service/train.py digits --dry-run\n"
        "mlflow db upgrade sqlite:////tmp/mlflow.db\n"
        "export MLFLOW_TRACKING_USERNAME=trainings MLFLOW_TRACKING_PASSWORD=a-long-password\n"
        "python -m service.tracking.accounts sqlite:////tmp/mlflow.db"
    )


def test_it_trains_and_generates_on_a_root_that_cannot_be_written_to(image: Image) -> None:
    said = image.run(
        f"(cd / && python -c 'import service; print(service.__file__)'); python service/train.py {' '.join(TRAIN)}\n"
        "selfgan generate --model models:/selfgan-digits/1 --tracking sqlite:////home/selfgan/runs/mlflow.db "
        "--out /tmp/grid.png && head --bytes 4 /tmp/grid.png | tail --bytes 3"
    )
    assert said.splitlines()[0].startswith(str(image.packages)), "what is installed runs, and not the folder"
    assert "done: 4 steps" in said and said.endswith("PNG")
