"""The rules of the layout that a reader relies on."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from docs.one_step import WAY, entries_of, lines_of
from tests.conftest import ROOT

FILES = sorted(file for folder in ("service", "pipelines") for file in (ROOT / folder).rglob("*.py"))
#: Folders are layers: each may import from those before it, and within itself.
LAYERS = [
    "pipelines.components", "pipelines.exit_codes", "pipelines.storage", "pipelines.data", "pipelines.loading",
    "pipelines.quality", "service.models", "service.replicas", "service.tasks", "service.losses", "service.training",
    "service.configuration", "service.tracking", "service.generator", "service.artifacts", "service.runs",
    "pipelines.evaluate", "pipelines.promote", "pipelines.retrain", "pipelines.rayjob", "pipelines.__main__",
    "service.generate", "service.interface", "service.train", "service",
]  # fmt: skip
#: The data path knows nothing of training: what may be imported from below this layer.
DATA_PATH = LAYERS[: LAYERS.index("service.models")]


def name_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer_of(module: str) -> int | None:
    """The number of the longest entry that the module lies in."""
    within = [entry for entry in LAYERS if module == entry or module.startswith(f"{entry}.")]
    return LAYERS.index(max(within, key=len)) if within else None


def upward_imports() -> list[str]:
    found = []
    for file in FILES:
        own = layer_of(name_of(file))
        for imported in imports(file):
            other = layer_of(imported)
            if own is not None and other is not None and other > own:
                found.append(f"{name_of(file)} imports {imported}")
    return found


def test_every_module_has_a_layer() -> None:
    assert [name_of(file) for file in FILES if layer_of(name_of(file)) is None and name_of(file) != "pipelines"] == []


def test_imports_go_one_way() -> None:
    assert upward_imports() == []


def test_the_data_path_knows_nothing_of_training() -> None:
    for file in FILES:
        if any(name_of(file).startswith(entry) for entry in DATA_PATH):
            assert not any(name.startswith("service") for name in imports(file)), file


def test_only_collectives_and_accelerators_know_torch_distributed() -> None:
    for file in FILES:
        if "accelerators" in file.parts or file.stem == "collectives":
            continue
        assert not any(name.startswith("torch.distributed") for name in imports(file)), file


def test_only_tracking_and_registry_know_mlflow() -> None:
    for file in FILES:
        if file.stem not in ("tracker", "delivery", "accounts", "registry", "packaged_model"):
            assert not any(name.partition(".")[0] == "mlflow" for name in imports(file)), file


def test_no_module_of_service_hides_one_of_the_standard_library() -> None:
    for entry in (ROOT / "service").iterdir():
        assert entry.stem not in sys.stdlib_module_names, entry


def test_files_are_short() -> None:
    for file in FILES:
        assert file.read_text().count("\n") <= 300, file


def test_the_entry_point_is_short() -> None:
    assert (ROOT / "service" / "train.py").read_text().count("\n") < 100


def test_a_step_is_read_in_few_lines() -> None:
    assert sum(map(lines_of, WAY)) <= 1250


def test_folders_have_few_entries() -> None:
    for folder in {file.parent for file in FILES}:
        if folder.name not in ("networks", "objectives"):  # One file a part: these grow, and are meant to.
            assert entries_of(folder) <= 14, folder
