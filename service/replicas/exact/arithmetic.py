"""The arithmetic of this machine: what is set for it to be the same in every process, and what names it."""

from __future__ import annotations

import os
import platform

import torch


def settle(device: torch.device) -> None:
    """Choose kernels whose results do not depend on threads, where libraries offer them. Before the first product.

    MKL's strict mode gives a matrix product's rows the same bits whatever their number. On CUDA the same kernels are
    chosen every time, and products are not rounded to TF32.
    """
    if device.type == "cpu":
        os.environ.setdefault("MKL_CBWR", f"{torch.backends.cpu.get_cpu_capability()},STRICT")
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
