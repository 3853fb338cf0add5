"""The manifests, as `kubectl apply -k` would send them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.deployment.kubectl import NoKubectlError, build, kubectl
from tests.deployment.kubernetes_objects import Manifest

K8S, CRDS = ROOT / "k8s", ROOT.parent / "shared" / "crds"
COMPONENTS = ("kueue", "store-port", "store-addresses", "pod-identity")
OVERLAYS = ("gpu", "tpu", "local", "tpu+kueue", *(f"gpu+{component}" for component in COMPONENTS))


@pytest.fixture(scope="session")
def overlays(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Manifest]]:
    """Every overlay, built."""
    try:
        program = kubectl()
    except NoKubectlError as error:
        pytest.skip(f"MANIFESTS NOT TESTED: {error}")
    built: dict[str, list[Manifest]] = {}
    for name in OVERLAYS:
        overlay, _, component = name.partition("+")
        folder = K8S / "overlays" / overlay
        if component:
            folder = tmp_path_factory.mktemp(name)
            base = os.path.relpath(K8S, folder)
            text = f"resources: [{base}/overlays/{overlay}]\ncomponents: [{base}/components/{component}]\n"
            (folder / "kustomization.yaml").write_text(text)
        built[name] = build(program, folder)
    return built


@pytest.fixture
def crds() -> Path:
    """KubeRay's CRDs, which lie beside the checkout; a user does not have them."""
    if not CRDS.exists():
        pytest.skip(f"RAYJOB AND RAYCLUSTER NOT CHECKED AGAINST KUBERAY: {CRDS} is not there")
    return CRDS
