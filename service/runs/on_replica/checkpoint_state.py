"""What continues of a replica from step to step: collected into a checkpoint's state, and restored from one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from service.artifacts.checkpoints import CheckpointError, State, network_weights
from service.generator import AVERAGE, GENERATOR
from service.replicas.exact.arithmetic import fingerprint
from service.replicas.global_batch import GlobalBatch
from service.training import optimizers
from service.training.critics.image_pool import Pools
from service.training.schemes import Stepper


class CheckpointState:
    """What a replica's checkpoint holds: networks, optimizers, rows of the step before, and pools.

    Attributes:
        networks: by the names that a checkpoint gives them.
    """

    def __init__(self, networks: Mapping[str, nn.Module], stepper: Stepper, pools: Pools, batch: GlobalBatch) -> None:
        self.networks, self._stepper, self._pools, self._batch = networks, stepper, pools, batch

    def state(self, step: int, identity: Mapping[str, str], run: Mapping[str, Any]) -> State:
        """Copies on the host. All replicas take part; waits for the device."""
        rows = {name: self._batch.gather(values, at) for name, (at, values) in self._stepper.row_state().items()}
        return State(
            step=step,
            networks={
                f"{part}.{name}": value.detach().cpu().clone()
                for part, network in self.networks.items()
                for name, value in network.state_dict().items()
            },
            optimizers={name: optimizers.state(optimizer) for name, optimizer in self._stepper.optimizers.items()},
            # A class is given to critics and says which samples may be compared: one tensor, of which no file has two.
            rows={name: value.detach().cpu().clone() for name, value in rows.items()},
            shared={name: value.cpu() for name, value in self._pools.state().items()},
            identity=identity,
            run=run,
            arithmetic=fingerprint(self._batch.device),
        )

    def restore(self, state: State) -> None:
        """Take all of it over; the batch has the rows of the state's last step open."""
        for part, network in self.networks.items():
            network.load_state_dict(network_weights(state, part))
        for name, optimizer in self._stepper.optimizers.items():
            optimizers.restore(optimizer, state.optimizers[name])
        device, dtype = self._batch.device, self._batch.dtype
        self._stepper.restore_row_state({name: value.to(device, dtype) for name, value in state.rows.items()})
        self._pools.restore({name: value.to(device, dtype) for name, value in state.shared.items()})

    def begin_with(self, state: State) -> None:
        """Take over the networks alone, of another run's state. Those that it does not have stay as they are.

        Raises:
            CheckpointError: they are other networks.
        """
        for part, network in self.networks.items():
            weights = network_weights(state, part) or network_weights(state, GENERATOR if part == AVERAGE else part)
            if not weights:
                continue
            try:
                network.load_state_dict(weights)
            except RuntimeError as error:
                raise CheckpointError(f"start_from: its {part} is another network than this run's") from error
