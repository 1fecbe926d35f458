"""Where a model runs: on CUDA or on the CPU. Nothing is loaded here but what the question needs."""

import shutil
from pathlib import Path
from typing import Literal

Device = Literal["auto", "cpu", "cuda"]


def takes_cuda(weights: Path, *, device: Device, precision: str) -> bool:
    """Whether these weights are to run on CUDA.

    Args:
        weights: What ``find_weights`` gave.
        device: ``auto`` takes CUDA where it is there and can serve the weights and the precision.
        precision: Only ``fp32`` runs there.

    Raises:
        ValueError: CUDA is demanded and there is none, or it cannot serve these weights in this precision.
    """
    able = can_serve_on_cuda(weights, precision)
    if device == "cpu" or (device == "auto" and not able):
        return False
    if not able:
        raise ValueError(f"CUDA takes .pt weights in fp32, not {weights.name} in {precision}.")
    present = cuda_may_be_here()
    if present:  # only then is it worth the seconds that importing torch takes
        import torch

        present = torch.cuda.is_available()
    if device == "cuda" and not present:
        raise ValueError("No CUDA device was found: set the device to auto or cpu.")
    return present


def can_serve_on_cuda(weights: str | Path, precision: str) -> bool:
    """Whether CUDA, where it is there, takes these weights in this precision."""
    return Path(weights).suffix == ".pt" and precision == "fp32"


def cuda_may_be_here() -> bool:
    """Whether this machine looks like one with CUDA. Cheap; whether it works is for torch to say."""
    return Path("/dev/nvidiactl").exists() or shutil.which("nvidia-smi") is not None
