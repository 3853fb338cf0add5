"""Whether exact replicas keep the bits of one for long: the methods of the published recipes, with small networks.

Options: ``replicas=2,3`` (numbers of them), ``steps=300``, ``dtype=float32``, ``methods=dcgan,wgan`` (beginnings of
their names) [default: all].
"""

from __future__ import annotations

import tempfile
import time

import torch

from pipelines.data.images import Transform
from pipelines.data.ingest import ingest
from pipelines.data.sources.digits import Digits
from pipelines.storage.location import Location
from tests.processes import run_replicas
from tests.replicas.test_exact import train
from tests.replicas.test_exact_for_long import METHODS


def main(*words: str) -> None:
    options = {"replicas": "2,3,4,5,8", "steps": "300", "dtype": "float32", "methods": ""}
    options |= dict(word.split("=", 1) for word in words)
    wanted = tuple(options["methods"].split(","))
    with tempfile.TemporaryDirectory() as folder:
        data = {}
        for size in (16, 32):
            data[size] = f"{folder}/{size}"
            ingest(Digits(), Transform(size=size, channels=1, resample="bicubic"), Location.of(data[size]))
        for name, method in METHODS.items():
            if not name.startswith(wanted):
                continue
            rest = {name: method}, options["dtype"], int(options["steps"])
            alone = run_replicas(1, train, data, *rest)[name]
            for count in map(int, options["replicas"].split(",")):
                began = time.time()
                found = run_replicas(count, train, data, *rest)[name]
                equal = sum(torch.equal(value, found[key]) for key, value in alone.items())
                print(
                    f"  {name:<34} {options['steps']} steps, {options['dtype']}, {count} replicas: "
                    f"{equal} of {len(alone)} tensors and losses bit-equal, {time.time() - began:.0f} s",
                    flush=True,
                )
