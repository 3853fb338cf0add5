"""What leaves for other software: it says what it takes, and makes the images of the original."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from pipelines.components import names
from service.artifacts.exports import TOLERANCE, ExportError, check_difference, hub, programs
from service.generator import Generator
from service.interface.command import main
from tests.conftest import ROOT, called
from tests.runs.test_generator import CARRIED, CLASSES, INFO, PLAIN, UNPAIRED, generator_of

#: A network's options where its own are large.
SMALL = {
    "pggan": "{name: pggan, channels: 8}", "r3gan": "{name: r3gan, blocks: 1}",
    "sagan": "{name: sagan, generator_channels: 4, critic_channels: 4}",
    "resnet": "{name: resnet, channels: 4, blocks: 1}", "unet": "{name: unet, channels: 4}",
    "stargan": "{name: stargan, channels: 4, blocks: 1}",
}  # fmt: skip
PAIRED = ["task=paired", "network={name: unet, channels: 4}", "data.source={name: pairs, uri: nowhere}",
          "data.transform.size=32"]  # fmt: skip


def onnx(file: Path) -> Any:
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package, reason="ONNX NOT TESTED: pip install 'selfgan[export]'")
    runtime = pytest.importorskip("onnxruntime", reason="ONNX NOT TESTED: pip install 'selfgan[export]'")
    return runtime.InferenceSession(file) if file.exists() else None


def uint8(images: Tensor) -> Tensor:
    """As anybody would make pictures of images in [-1, 1]."""
    return ((images.double() + 1) * 127.5).round().clamp(0, 255)


def exported(folder: Path, form: str, out: Path) -> tuple[int, str, str]:
    return called(main, "export", "--model", str(folder), "--format", form, "--out", str(out))


def latents_of(generator: Generator, count: int, label: int) -> tuple[Tensor, Tensor]:
    """What `Generator.make` of seed 3 and a label gives its network: an image's latents, for each class in turn."""
    kinds = 10
    drawn = generator.task.examples(generator.network, 3, count * kinds, torch.device("cpu"))
    return drawn["latents"][::kinds], torch.full((count,), label)


def test_torch_export_makes_the_images_of_a_class(tmp_path: Path) -> None:
    generator, out = generator_of(tmp_path / "model", CLASSES), tmp_path / "out" / "model.pt2"
    code, said, err = exported(tmp_path / "model", "torch_export", out)
    assert code == 0, err
    assert "latents (N, 100), labels (N) -> images (N, 1, 16, 16), in [-1, 1]; differs from the model by" in said
    extra = {"description.json": ""}
    program = torch.export.load(out, extra_files=extra).module()
    made = program(*latents_of(generator, 7, label=4))
    assert torch.equal(uint8(made), generator.make(7, seed=3, label=4).double())
    described = json.loads(extra["description.json"])
    assert described["inputs"]["labels"] == {"shape": ["N"], "type": "int64"}
    assert described["model"]["network"]["name"] == "dcgan"
    assert [file.name for file in out.parent.iterdir()] == ["model.pt2"]


def test_images_of_several_attributes_can_be_asked_for(tmp_path: Path) -> None:
    words = [*PLAIN, "task={name: attributes, attributes: 3}"]
    generator, out = generator_of(tmp_path / "model", words), tmp_path / "model.pt2"
    code, said, err = exported(tmp_path / "model", "torch_export", out)
    assert code == 0, err
    assert "labels (N, 3) -> images" in said
    latents = generator.task.examples(generator.network, 3, 2 * 3, torch.device("cpu"))["latents"][::3]
    made = torch.export.load(out).module()(latents, torch.tensor([[1.0, 0.0, 1.0]]).expand(2, -1))
    assert torch.equal(uint8(made), generator.make(2, seed=3, label="0,2").double())


def test_onnx_makes_the_images_of_a_class(tmp_path: Path) -> None:
    out = tmp_path / "model.onnx"
    onnx(out)
    generator = generator_of(tmp_path / "model", CLASSES)
    code, said, err = exported(tmp_path / "model", "onnx", out)
    assert code == 0, err
    assert "latents (N, 100), labels (N) -> images (N, 1, 16, 16)" in said
    session = onnx(out)
    assert [value.name for value in session.get_inputs()] == ["latents", "labels"]
    assert [value.name for value in session.get_outputs()] == ["images"]
    latents, labels = latents_of(generator, 7, label=4)
    (made,) = session.run(None, {"latents": latents.numpy(), "labels": labels.numpy()})
    assert torch.equal(uint8(torch.from_numpy(made)), generator.make(7, seed=3, label=4).double())
    described = json.loads(session.get_modelmeta().custom_metadata_map["description"])
    assert described["outputs"]["images"]["range"] == [-1, 1]


@pytest.mark.long
@pytest.mark.parametrize("form", ["torch_export", "onnx"])
@pytest.mark.parametrize(
    "words", [INFO, PAIRED, UNPAIRED, CARRIED, [*PLAIN, "dtype=float64"]], ids=lambda words: words[0]
)
def test_every_task_is_exported(tmp_path: Path, words: list[str], form: str) -> None:
    if form == "onnx":
        onnx(tmp_path / "none")
    generator = generator_of(tmp_path / "model", words)
    for parameter in generator.module.parameters():  # As large as those of a trained one.
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    assert programs.write(generator, form, tmp_path / "model.pt2") <= TOLERANCE


@pytest.mark.long
@pytest.mark.parametrize("form", ["torch_export", "onnx"])
@pytest.mark.parametrize("network", names("service.models.networks"))
def test_every_network_is_exported(tmp_path: Path, network: str, form: str) -> None:
    if form == "onnx":
        onnx(tmp_path / "none")
    translates = (
        ["task=unpaired", "data.domains=[{source: digits}]"] if network in ("resnet", "unet", "stargan") else []
    )
    words = [f"network={SMALL.get(network, network)}", "data.transform.size=32", *translates]
    generator = generator_of(tmp_path / "model", words)
    # As large as those of a trained one. PGGAN's are that: it scales them when they are used.
    for parameter in generator.module.parameters():
        if parameter.dim() > 1 and network != "pggan":
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    assert programs.write(generator, form, tmp_path / "model.pt2") <= TOLERANCE


def test_a_program_that_makes_other_images_is_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = generator_of(tmp_path / "model", PLAIN)
    original = programs._write_torch_export

    def wrong(generator: Generator, file: Path) -> Any:
        called = original(generator, file)
        return lambda inputs: called(inputs) + 2 * TOLERANCE

    monkeypatch.setattr(programs, "_write_torch_export", wrong)
    with pytest.raises(
        ExportError, match=r"torch_export program makes other images than the model: they differ by 0\.0002"
    ):
        programs.write(generator, "torch_export", tmp_path / "model.pt2")
    assert [file.name for file in tmp_path.iterdir()] == ["model"]
    with pytest.raises(ExportError):
        check_difference(float("nan"), "program")


def test_mistakes_are_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator_of(tmp_path / "model", PLAIN)
    assert exported(tmp_path / "model", "onnx", tmp_path / "a.pt2") == (
        2, "", f"error: --out: {tmp_path / 'a.pt2'} should end in .onnx, as onnx files do\n",
    )  # fmt: skip
    monkeypatch.setattr(programs, "find_spec", lambda name: None if name == "onnxscript" else object())
    code, _, err = exported(tmp_path / "model", "onnx", tmp_path / "a.onnx")
    assert code == 2
    assert "onnx needs onnxscript, which is not installed: pip install 'selfgan[export]'" in err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    code, _, err = exported(tmp_path / "model", "huggingface", tmp_path / "full")
    assert (code, err) == (2, f"error: --out: {tmp_path / 'full'} is there already; name a new folder\n")
    code, _, err = exported(tmp_path / "full", "huggingface", tmp_path / "out")
    assert (code, err) == (
        2, f"error: {tmp_path / 'full'}: the folder has neither config.json nor description.json, so no model\n",
    )  # fmt: skip
    code, _, err = exported(tmp_path / "nothing", "huggingface", tmp_path / "out")
    assert code == 2 and "names no model" in err


def test_a_folder_for_the_hub_says_what_it_holds(tmp_path: Path) -> None:
    generator = generator_of(tmp_path / "model", CLASSES, average=True)
    (tmp_path / "model" / "samples.png").write_bytes(b"a picture")
    out = tmp_path / "hub"
    code, said, err = exported(tmp_path / "model", "huggingface", out)
    assert code == 0, err
    assert said == f"README.md, config.json, model.safetensors, samples.png in {out}; its weights are the model's\n"
    assert load_file(out / "model.safetensors").keys() == generator.module.state_dict().keys()
    _, front, text = (out / "README.md").read_text().split("---\n", 2)
    described = yaml.safe_load(front)
    assert described["pipeline_tag"] == "unconditional-image-generation"
    assert described["library_name"] == "selfgan" and "gan" in described["tags"]
    assert "license" not in described and front.startswith("# license: ")
    assert "open_generator(" in text and "![Samples](samples.png)" in text
    assert torch.equal(Generator.read(out).make(5, seed=3), generator.make(5, seed=3))


@pytest.mark.long
def test_nothing_is_said_but_one_line(tmp_path: Path) -> None:
    onnx(tmp_path / "none")
    generator_of(tmp_path / "model", PLAIN)
    words = ["--model", str(tmp_path / "model"), "--format", "onnx", "--out", str(tmp_path / "model.onnx")]
    command = [sys.executable, "-c", "from service.interface.command import run; run()", "export", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stderr == "" and len(done.stdout.splitlines()) == 1


@pytest.mark.long
def test_a_folder_for_the_hub_is_loaded_in_another_process(tmp_path: Path) -> None:
    """As its card says."""
    generator = generator_of(tmp_path / "model", PLAIN)
    hub.write(generator, tmp_path / "none.png", tmp_path / "hub")
    (block,) = re.findall(r"```python\n(.*?)```", (tmp_path / "hub" / "README.md").read_text(), re.DOTALL)
    script = block.replace("path/to/this/folder", str(tmp_path / "hub"))
    script += f"\nimport torch\ntorch.save(images, {str(tmp_path / 'made.pt')!r})\n"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
    assert torch.equal(torch.load(tmp_path / "made.pt"), generator.make(64, seed=7))


def test_a_translators_card_says_so(tmp_path: Path) -> None:
    hub.write(generator_of(tmp_path / "model", UNPAIRED), tmp_path / "none.png", tmp_path / "hub")
    text = (tmp_path / "hub" / "README.md").read_text()
    assert "pipeline_tag: image-to-image" in text and "generator.translate(images)" in text
    assert "samples.png" not in text
