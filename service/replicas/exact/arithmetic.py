"""The arithmetic of this machine: what is set for it to be the same in every process, and what names it."""

from __future__ import annotations

import platform

import torch


def settle(device: torch.device) -> None:
    """On CUDA, let the same kernels be chosen every time, and products not be rounded to TF32.

    On a CPU nothing is set: MKL's reproducible modes can be chosen only before a process's first product, and a process
    that came too late would have other bits than the rest.
    """
    if device.type != "cuda":
        return
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def fingerprint(device: torch.device) -> str:
    """What bits depend on beside the recipe: the same on machines that give the same ones."""
    if device.type == "cuda":
        return f"torch {torch.__version__}, {torch.cuda.get_device_name(device)}"
    return f"torch {torch.__version__}, {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
