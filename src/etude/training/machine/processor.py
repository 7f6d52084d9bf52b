"""The capabilities of this processor; no other file reads them."""

from __future__ import annotations

import os

import torch

AVX2_LIMITS = ("AVX2", "AVX2_VNNI", "AVX2_VNNI_2")
OLDER_LIMITS = ("SSE41", "AVX")


def convolves_with_avx2() -> bool:
    """Return whether oneDNN computes convolutions with its code for AVX2.

    This is the case on a processor without AVX-512, and on any other if the environment variable
    ONEDNN_MAX_CPU_ISA (or the older DNNL_MAX_CPU_ISA) limits oneDNN to AVX2.

    >>> convolves_with_avx2() in (False, True)
    True
    """
    # In older versions of torch the switch is only a context, and cannot be read.
    present: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not (present and getattr(torch.backends.mkldnn, "enabled", True)):
        return False
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or ""
    limit = limit.upper()
    capability = torch.backends.cpu.get_cpu_capability()
    if capability.startswith("AVX512"):
        return limit in AVX2_LIMITS
    return capability == "AVX2" and limit not in OLDER_LIMITS
