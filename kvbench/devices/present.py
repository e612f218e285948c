"""The devices that torch can use here, in kvbench's names."""

from __future__ import annotations

import torch

__all__ = ["present_devices", "why_no_cuda"]


def present_devices() -> tuple[str, ...]:
    """`cpu`, then `cuda`, `cuda:1`, ... as far as there are any; `cuda` is the first of them."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return ("cpu", *("cuda" if index == 0 else f"cuda:{index}" for index in range(count)))


def why_no_cuda() -> str | None:
    """Why there is no CUDA device, as a sentence; None if there is one."""
    if torch.cuda.is_available():
        return None
    if torch.version.cuda is None:
        return f"CUDA: this torch ({torch.__version__}) was built without it."
    return f"CUDA: torch ({torch.__version__}, CUDA {torch.version.cuda}) finds no usable device."
