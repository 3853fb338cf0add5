"""The loop of a replica that is not the first."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pipelines.loading.loader import open_loader
from pipelines.storage.location import Location
from service.artifacts.checkpoints import State
from service.configuration.recipe import load
from service.replicas.accelerators.torch_distributed import TorchDistributed
from service.runs.on_replica.agreement import Left, Wish
from service.runs.on_replica.loop import train
from service.runs.on_replica.replica import Replica


class Accelerator(TorchDistributed):
    """A pod's, in which all processes ask their device for the same, or one of replicas with devices of their own."""

    def __init__(self, rank: int, in_step: bool) -> None:
        super().__init__(torch.device("cpu"))
        self.rank, self.in_step = rank, in_step


class Asked:
    """What a run asks of its device, as far as the loop decides it, and what it gives out."""

    def __init__(self) -> None:
        self.work: list[str] = []
        self.given: list[str] = []
        self.wishes: dict[int, Wish] = {}

    def progress(self, step: int) -> None:
        self.given.append(f"progress {step}")

    def metrics(self, step: int, values: Any) -> None:
        self.given.append(f"metrics {step}")

    def warn(self, text: str) -> None:
        self.given.append("warning")

    def samples(self, step: int, images: Tensor) -> None:
        self.given.append(f"samples {step}")

    def wish(self, step: int) -> Wish:
        return self.wishes.get(step, Wish())

    def checkpoint(self, state: State, score: float | None) -> None:
        self.work.append(f"state {state.step}")
        if score is not None:
            self.given.append(f"score {state.step}")


def asked(rank: int, in_step: bool, data: Location, wishes: Mapping[int, Wish] = {}, left: Left | None = None) -> Asked:
    words = ["batch.size=8", "steps=4", "logging.every=2", "logging.samples_every=2", "checkpoints.every=2"]
    words += ["network.generator_channels=4", "network.critic_channels=4", "checkpoints.score_images=16"]
    run, accelerator, outputs = load("digits", words), Accelerator(rank, in_step), Asked()
    replica = Replica(run, accelerator, open_loader(data, run.data.transform, run.batch.size, run.seed))
    generate = replica.generate

    def noted(count: int, seed: int, shown: bool = False) -> Tensor:
        outputs.work.append(f"{count} images")
        return generate(count, seed, shown)

    replica.generate = noted  # type: ignore[method-assign]
    outputs.wishes.update(wishes)
    assert train(run, accelerator, replica, outputs) == left
    replica.close()
    return outputs


def test_processes_in_step_ask_their_device_for_the_same(digits: Location) -> None:
    """A pod's program waits for all of its hosts: one that did not ask for an image would hang it."""
    first, other = asked(0, True, digits), asked(1, True, digits)
    assert other.work == first.work
    assert [work for work in first.work if work.endswith("images")]
    assert {given.split()[0] for given in first.given} == {"progress", "metrics", "samples", "score"}
    assert {given.split()[0] for given in other.given} <= {"score"}


def test_a_replica_with_a_device_of_its_own_leaves_images_to_the_first(digits: Location) -> None:
    other = asked(1, False, digits)
    assert other.work == ["state 2", "state 4"]
    assert other.given == []


def test_who_is_asked_to_leave_keeps_the_step_first(digits: Location) -> None:
    left = asked(0, False, digits, {1: Wish(checkpoint=True), 3: Wish(leave="preempted")}, Left(3, "preempted"))
    assert [given for given in left.given if given.startswith("score")] == ["score 1", "score 2", "score 3"]
