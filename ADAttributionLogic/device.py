"""Where to compute: CUDA, Apple's MPS, or the CPU."""

from __future__ import annotations

import platform

import torch

from ADAttributionLogic.errors import UsageError

DEVICES = ("auto", "cuda", "mps", "cpu")


def choose_device(name: str = "auto") -> torch.device:
    """Return the device to compute on: by name, or the best that is present; on a GPU, set to exact float32.

    Parameters
    ----------
    name : {"auto", "cuda", "mps", "cpu"} or "cuda:1" and the like

    Raises
    ------
    UsageError
        A device that is not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return choose_device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind = name.split(":")[0]
    if kind not in DEVICES[1:]:
        raise UsageError(f"There is no device {name!r}. Choose one of {', '.join(DEVICES)}.")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            f"Device {name} was asked for, but this PyTorch ({torch.__version__}) finds no CUDA GPU. Use --device cpu, "
            "or install a CUDA build of PyTorch and the GPU's driver."
        )
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UsageError("Device mps was asked for, but there is no Apple GPU. Use --device cpu.")
    device = torch.device(name)
    if kind == "cuda":
        _compute_exactly()
    if kind == "cuda" and device.index is not None and device.index >= torch.cuda.device_count():
        raise UsageError(f"There is no GPU {device.index}; this computer has {torch.cuda.device_count()}.")
    return device


def _compute_exactly() -> None:
    """Convolutions in float32 as it is, and always in the same order.

    PyTorch computes convolutions on NVIDIA GPUs in TF32 unless told otherwise, whose 10 bits of mantissa lose relevance
    that conservation would show; and it takes algorithms whose sums change from run to run.
    """
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def describe_device(device: torch.device) -> str:
    """Name for messages and provenance, e.g. ``cuda (NVIDIA H200)`` or ``cpu (2 threads, x86_64)``."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    if device.type == "cpu":
        return f"cpu ({torch.get_num_threads()} threads, {platform.machine()})"
    return str(device)


def is_out_of_memory(cause: BaseException) -> bool:
    """Whether an exception means that the device's memory is exhausted."""
    if isinstance(cause, torch.OutOfMemoryError):
        return True
    return isinstance(cause, RuntimeError) and "out of memory" in str(cause).lower()
