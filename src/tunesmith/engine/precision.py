"""Which number format the forward pass computes in. Masters and optimizer are always float32."""

from __future__ import annotations

import torch


def choose_dtype(device: str) -> tuple[torch.dtype, str]:
    """(type, why): bf16 where the hardware multiplies it fast, float32 elsewhere."""
    if device.startswith("cuda"):
        if is_fast_in_bf16(device):
            return torch.bfloat16, "this GPU has bf16 matrix units"
        return torch.float32, "this GPU has no bf16 matrix units"
    units = bf16_units() if device == "cpu" else None
    if units == "AMX":
        return torch.bfloat16, "this CPU has AMX, whose bf16 products are several times as fast"
    if units:
        return torch.float32, f"the exact one; with this CPU's {units} bfloat16 may be twice as fast"
    return torch.float32, f"bf16 matrix products are not fast on this device ({device})"


def is_fast_in_bf16(device: str) -> bool:
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device == "cpu" and bf16_units() is not None


def bf16_units() -> str | None:
    """What multiplies bf16 fast on this CPU."""
    if torch.cpu._is_amx_tile_supported():
        return "AMX"
    return "AVX512-BF16" if torch.cpu._is_avx512_bf16_supported() else None


def choose_device() -> tuple[str, str]:
    """(device, why)."""
    if torch.cuda.is_available():
        return "cuda", f"{torch.cuda.get_device_name()} is here"
    return "cpu", f"no GPU that torch can use; {torch.get_num_threads()} threads"
