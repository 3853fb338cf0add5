"""The rules of the layout that a reader relies on."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.conftest import ROOT

FILES = sorted(file for folder in ("service", "pipelines") for file in (ROOT / folder).rglob("*.py"))
#: Each may import what stands before it, and its own.
LAYERS = [
    {"service.components", "service.collectives", "service.randomness", "service.pixels"},
    {"pipelines", "service.batch", "service.blocks", "service.norms", "service.noisy", "service.patches",
     "service.growth", "service.vgg", "service.shared_pass", "service.layers", "service.ema", "service.minibatch",
     "service.accelerators", "service.divergence", "service.precision", "service.products"},
    {"service.networks", "service.objectives", "service.balances", "service.tasks", "service.regularizers",
     "service.optimizers", "service.terms", "service.panel", "service.augmentation"},
    {"service.judging", "service.penalties", "service.pool"},
    {"service.schemes"},
    {"service.circumstances", "service.generator"},
    {"service.config", "service.recipe", "service.checkpoints", "service.monitors", "service.quality",
     "service.pictures"},
    {"service.replica", "service.loop", "service.journal", "service.tracking", "service.gauges", "service.best",
     "service.registry", "service.model_card", "service.model_cache", "service.packaged_model"},
    {"service.worker", "service.cluster", "service.progress", "service.usage"},
    {"service.datasets"},
    {"service.launch", "service.validation", "pipelines.evaluation"},
    {"pipelines.evaluate"},
    {"pipelines.promote", "pipelines.report"},
    {"service.train", "service.generate", "pipelines.retrain", "pipelines.__main__"},
]  # fmt: skip


def name_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}


def layer_of(module: str) -> int | None:
    for number, layer in reversed(list(enumerate(LAYERS))):  # `pipelines.__main__` before `pipelines`.
        if any(module == entry or module.startswith(f"{entry}.") for entry in layer):
            return number
    return None


def test_imports_go_one_way() -> None:
    for file in FILES:
        own = layer_of(name_of(file))
        if name_of(file) == "service":
            continue
        assert own is not None, f"{file} has no layer"
        for imported in imports(file):
            other = layer_of(imported)
            assert other is None or other <= own, f"{name_of(file)} imports {imported}"


def test_only_collectives_and_accelerators_know_torch_distributed() -> None:
    for file in FILES:
        if "accelerators" in file.parts or file.stem == "collectives":
            continue
        assert not any(name.startswith("torch.distributed") for name in imports(file)), file


def test_only_tracking_and_registry_know_mlflow() -> None:
    for file in FILES:
        if file.stem not in ("tracking", "registry", "packaged_model"):
            assert not any(name.partition(".")[0] == "mlflow" for name in imports(file)), file


def test_no_module_of_service_hides_one_of_the_standard_library() -> None:
    for entry in (ROOT / "service").iterdir():
        assert entry.stem not in sys.stdlib_module_names, entry


def test_files_are_short() -> None:
    for file in FILES:
        assert file.read_text().count("\n") <= 300, file


def test_the_entry_point_is_short() -> None:
    assert (ROOT / "service" / "train.py").read_text().count("\n") < 100
