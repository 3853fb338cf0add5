"""The image, as far as it can be known without a container engine: its recipe, its locks, and the code installed."""

from __future__ import annotations

import fnmatch
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

TARGETS = {"cpu", "gpu", "tpu"}
FORBIDDEN = ["data/mnist", "runs/mlflow.db", ".git/config", ".venv/bin/python", "tests/conftest.py", "k8s/base", "docs"]
FORBIDDEN += [
    "infra/compose.env",
    "infra/terraform/terraform.tfstate",
    "service/networks/__pycache__",
    "service/train.pyc",
]


def _lint(dockerfile: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("hadolint")
    return subprocess.run([str(program), "-"], input=dockerfile, capture_output=True, text=True, check=False)


def read_dockerfile() -> str:
    return (ROOT / "Dockerfile").read_text()


def _instructions(dockerfile: str) -> list[tuple[str, str]]:
    """Each instruction and what stands behind it, on one line."""
    lines = [line for line in dockerfile.splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ").splitlines()
    return [(line.partition(" ")[0], line.partition(" ")[2].strip()) for line in joined if line.strip()]


def stages_of(dockerfile: str) -> dict[str, list[tuple[str, str]]]:
    stages: dict[str, list[tuple[str, str]]] = {}
    for name, rest in _instructions(dockerfile):
        if name == "FROM":
            stages[rest.rpartition(" ")[2]] = []
        stages[list(stages)[-1]].append((name, rest))
    return stages


def _ignored(path: str, patterns: str) -> bool:
    """Whether docker leaves a path out: the last pattern that fits it, or a folder that it is in, decides."""
    parents = [path, *(str(parent) for parent in Path(path).parents if str(parent) != ".")]
    ignored = False
    for line in patterns.splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!")
        names = [part for name in parents for part in _tails(name, pattern)]
        if any(fnmatch.fnmatchcase(name, pattern.removeprefix("**/")) for name in names):
            ignored = not line.startswith("!")
    return ignored


def _tails(name: str, pattern: str) -> list[str]:
    """The path itself, and for a pattern that holds in any folder what stands in each of them."""
    parts = name.split("/")
    whole = name if pattern.count("/") == name.count("/") else ""
    return ["/".join(parts[at:]) for at in range(len(parts))] if pattern.startswith("**/") else [whole]


def _image_problems(dockerfile: str, patterns: str) -> Iterator[str]:
    stages = stages_of(dockerfile)
    yield from (f"there is no target {target}" for target in sorted(TARGETS - set(stages)))
    for stage, instructions in stages.items():
        base = instructions[0][1].split()[0]
        if base not in stages and not re.fullmatch(r"python:3\.11\.\d+-slim-[a-z]+", base):
            yield f"{base} is not pinned"
        for name, rest in instructions:
            if name == "COPY":
                yield from _copy_problems(rest, set(stages), patterns)
            if name == "RUN" and "pip install" in rest:
                yield from (f"{stage}: {word}" for word in _install_problems(rest))
        if stage in TARGETS:
            users = [rest for name, rest in instructions if name == "USER"]
            yield from [] if users[-1:] == ["1000:1000"] else [f"{stage} runs as {users}"]
            yield from [] if ("WORKDIR", "/app") in instructions else [f"{stage} does not start in /app"]
            if any("PYTHONPATH" in rest for _, rest in instructions):
                yield f"{stage} needs PYTHONPATH"
    yield from (f"{path} gets into the image" for path in FORBIDDEN if not _ignored(path, patterns))


def _copy_problems(rest: str, stages: set[str], patterns: str) -> Iterator[str]:
    words = rest.split()
    options = [word for word in words if word.startswith("--")]
    origin = next((option.removeprefix("--from=") for option in options if option.startswith("--from=")), None)
    if origin:
        yield from [] if origin in stages else [f"copies from {origin}, which is no stage"]
        return
    for source in [word for word in words if word not in options][:-1]:
        if not (ROOT / source).exists():
            yield f"{source} is not there"
        elif _ignored(source, patterns):
            yield f"{source} is ignored"


def _install_problems(rest: str) -> Iterator[str]:
    for command in re.split("&&", rest):
        if "pip install" in command and not ("--require-hashes" in command or "--no-deps" in command):
            yield "installs what has no hash"
        if "pip install" in command and "--no-cache-dir" not in command:
            yield "keeps pip's cache"


def test_the_image_is_sound() -> None:
    assert list(_image_problems(read_dockerfile(), (ROOT / ".dockerignore").read_text())) == []


def test_hadolint_is_content() -> None:
    done = _lint(read_dockerfile())
    assert done.returncode == 0, done.stdout


def test_hadolint_finds_a_bad_dockerfile_out() -> None:
    assert "DL3006" in _lint(read_dockerfile().replace("python:3.11.15-slim-bookworm", "python")).stdout
    assert "DL3008" in _lint(read_dockerfile().replace("# hadolint ignore=DL3008\n", "")).stdout


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("FROM base AS tpu", "FROM base AS pod"),
        ("python:3.11.15-slim-bookworm", "python:3.11-slim"),
        ("USER 1000:1000", "USER selfgan"),
        ("USER 1000:1000", ""),
        ("COPY service ./service", "COPY services ./service"),
        ("COPY service ./service", "COPY tests ./tests"),
        ("--from=packages-gpu", "--from=packages-cuda"),
        ("--require-hashes --only-binary", "--only-binary"),
        ("--no-cache-dir --require-hashes --only", "--require-hashes --only"),
        ("WORKDIR /app\nUSER", "USER"),
        ("ENV PJRT_DEVICE=TPU", "ENV PYTHONPATH=/app"),
    ],
)
def test_a_broken_dockerfile_is_found_out(old: str, new: str) -> None:
    assert old in read_dockerfile()
    assert list(_image_problems(read_dockerfile().replace(old, new), (ROOT / ".dockerignore").read_text()))


@pytest.mark.parametrize(
    ("old", "new"), [("\n*\n", "\n"), ("**/__pycache__", "__pycache__"), ("!pipelines", ""), ("!infra/req", "!infra/c")]
)
def test_a_broken_dockerignore_is_found_out(old: str, new: str) -> None:
    patterns = (ROOT / ".dockerignore").read_text()
    assert old in patterns
    assert list(_image_problems(read_dockerfile(), patterns.replace(old, new)))


# The locks


def _pins(text: str) -> dict[str, str]:
    found = re.findall(r"^([\w.-]+)(?:\[[^]]*\])?==(\S+)", text, re.M)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}


def _lock_problems(target: str, text: str) -> Iterator[str]:
    """Every package has hashes, and is that of requirements.lock but for what a target is about."""
    for entry in re.split(r"\n(?=\S)", text):
        if "==" in entry and not entry.startswith("#") and not re.search(r"--hash=sha256:[0-9a-f]{64}", entry):
            yield f"{entry.split()[0]} has no hash"
    pins, tested = _pins(text), _pins((ROOT / "requirements.lock").read_text())
    own = {"cpu": {"torch": f"{tested['torch']}+cpu"}, "gpu": {}, "tpu": {"torch": "2.9"}}[target]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = {re.split(r"[^\w.-]", word)[0].lower() for word in project["dependencies"]}
    for name in {*asked, "psycopg2-binary", "flask-wtf"} - set(pins):
        yield f"{name} is missing"
    for name, version in pins.items():
        wanted = own.get(name, tested.get(name, version))
        if version != wanted and not (target == "tpu" and name == "torch" and version.startswith("2.9.")):
            yield f"{name} is {version}, tested with {wanted}"
    if target == "cpu" and any(name.startswith("nvidia") for name in pins.keys() - {"nvidia-ml-py"}):
        yield "CUDA is in the image for machines without"
    if target == "tpu" and not (pins.get("torch-xla", "").startswith("2.9.") and "libtpu" in pins):
        yield "torch_xla is missing"


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_what_is_installed_has_hashes_and_is_what_was_tested(target: str) -> None:
    text = (ROOT / "infra" / f"requirements-{target}.txt").read_text()
    found = list(_lock_problems(target, text))
    assert found == [], "`bash infra/lock.sh` writes the locks anew"
    assert list(_lock_problems(target, re.sub(r"--hash=\S+", "", text, count=2)))
    assert list(_lock_problems(target, text.replace("mlflow==", "mlflow-other==")))
    assert list(_lock_problems(target, re.sub(r"^numpy==\S+", "numpy==1.0", text, flags=re.M)))


# The code, installed


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the wheel of a copy of the source is unpacked, as the image's packages are."""
    source, wheels = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheels")
    for name in ("pyproject.toml", "README.md", "LICENSE", "service", "pipelines"):
        (source / name).symlink_to(ROOT / name)
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels), str(source)]
    _pip(*build)
    (wheel,) = wheels.glob("selfgan-*.whl")
    folder = tmp_path_factory.mktemp("installed") / "packages"
    _pip("install", "--no-deps", "--no-index", "--target", str(folder), str(wheel))
    return folder


def _pip(*words: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _python(*words: str, packages: Path, cwd: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(packages), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        [sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_all_of_the_code(installed: Path) -> None:
    for package in ("service", "pipelines"):
        files = [file for file in (ROOT / package).rglob("*") if file.is_file() and "__pycache__" not in file.parts]
        missing = [file.relative_to(ROOT) for file in files if not (installed / file.relative_to(ROOT)).exists()]
        assert missing == []
        assert files
    assert (installed / "service" / "recipes" / "digits.yaml").exists()
    assert not (installed / "tests").exists()


def test_the_installed_code_runs_away_from_the_source(installed: Path, tmp_path: Path) -> None:
    where = "import service, pipelines; print(service.__file__, pipelines.__file__)"
    assert str(ROOT) not in _python("-c", where, packages=installed, cwd=tmp_path)
    assert "recipe: digits" in _python("-m", "service.train", "digits", "--dry-run", packages=installed, cwd=tmp_path)
    # As the image's commands call it: from a folder that has the code in it.
    assert "recipe: digits" in _python("service/train.py", "digits", "--dry-run", packages=tmp_path, cwd=installed)
    assert "usage" in _python("-m", "pipelines", "--help", packages=installed, cwd=tmp_path).lower()
