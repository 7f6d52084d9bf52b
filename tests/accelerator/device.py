"""The device 'mock': memory and kernels of the CPU, and a GPU's refusal to mix tensors of both.

It shows without a GPU where tensors of two devices meet. It has no streams, and no random numbers
of its own: those of the CPU are drawn.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

NAME = "mock"
SOURCE = Path(__file__).parent / "device.cpp"
EXTENSION = "etude_mock_device"


def build(folder: Path, compiler: str) -> Path:
    """Compile the device, and return the library."""
    home = Path(torch.__file__).parent
    library = folder / f"{EXTENSION}.so"
    command = [
        compiler, "-O0", "-std=c++20", "-fPIC", "-shared",
        f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",
        f"-DTORCH_EXTENSION_NAME={EXTENSION}",
        f"-I{home / 'include'}", f"-I{home / 'include/torch/csrc/api/include'}",
        f"-I{sysconfig.get_paths()['include']}",
        str(SOURCE), "-o", str(library), f"-L{home / 'lib'}",
        "-ltorch", "-ltorch_cpu", "-lc10", "-ltorch_python", f"-Wl,-rpath,{home / 'lib'}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:4000]
    return library


def register(library: Path) -> None:
    """Make the device known to torch in this process, for good."""
    spec = importlib.util.spec_from_file_location(EXTENSION, library)
    assert spec is not None
    assert spec.loader is not None
    extension: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(extension)
    torch.utils.rename_privateuse1_backend(NAME)
    torch._register_device_module(NAME, _module())
    torch.utils.generate_methods_for_privateuse1_backend()
    extension.begin()
    for name, call in (
        ("convolution_overrideable", _convolution),
        ("convolution_backward_overrideable", _convolution_backward),
        ("_thnn_fused_lstm_cell", _lstm_cell),
        ("_thnn_fused_lstm_cell_backward_impl", _lstm_cell_backward),
    ):
        OPERATIONS.impl(name, call, "PrivateUse1")


OPERATIONS = torch.library.Library("aten", "IMPL")
"""What the CPU computes by other operations than a device of another kind."""


class _Device:
    """A block in which a device is the current one."""

    def __init__(self, index: int) -> None: ...

    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None: ...


def _module() -> ModuleType:
    """Return what torch asks of a device."""
    module: Any = ModuleType(f"torch.{NAME}")
    module.device = _Device
    module.is_available = module.is_initialized = lambda: True
    module.device_count = lambda: 1
    module.current_device = lambda: 0
    module._is_in_bad_fork = lambda: False
    module._lazy_init = lambda: None
    module.manual_seed = module.manual_seed_all = lambda seed: None
    module.get_rng_state = lambda device=None: torch.zeros(16, dtype=torch.uint8)
    module.set_rng_state = lambda state, device=None: None
    module.synchronize = lambda device=None: None
    module.get_amp_supported_dtype = lambda: [torch.bfloat16, torch.float16]
    found: ModuleType = module
    return found


def _here(tensor: Tensor | None) -> Any:
    return None if tensor is None else tensor.cpu()


def _convolution(x: Tensor, w: Tensor, b: Tensor | None, *options: Any) -> Tensor:
    found: Tensor = torch.ops.aten.convolution(_here(x), _here(w), _here(b), *options)
    return found.to(x.device)


def _convolution_backward(
    gradient: Tensor, x: Tensor, w: Tensor, stride: Any, padding: Any, dilation: Any,
    transposed: bool, output_padding: Any, groups: int, mask: Any,
) -> tuple[Tensor | None, ...]:  # fmt: skip
    outputs = w.shape[1] * groups if transposed else w.shape[0]
    found = torch.ops.aten.convolution_backward(
        _here(gradient), _here(x), _here(w), [outputs], stride, padding, dilation, transposed,
        output_padding, groups, mask,
    )  # fmt: skip
    return tuple(part if part is None else part.to(x.device) for part in found)


def _lstm_cell(
    inward: Tensor, hidden: Tensor, cell: Tensor, b: Tensor | None = None, c: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the hidden state, the cell's state, and the gates, which the backward pass takes."""
    gates = inward + hidden
    if b is not None and c is not None:
        gates = gates + b + c
    i, f, g, o = gates.chunk(4, 1)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    after = f * cell + i * g
    return o * after.tanh(), after, torch.cat([i, f, g, o], 1)


def _lstm_cell_backward(
    of_hidden: Tensor | None, of_cell: Tensor | None, cell: Tensor, after: Tensor, gates: Tensor,
    bias: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:  # fmt: skip
    i, f, g, o = gates.chunk(4, 1)
    squashed = after.tanh()
    of_hidden = torch.zeros_like(after) if of_hidden is None else of_hidden
    inner = of_hidden * o * (1 - squashed**2)
    inner = inner if of_cell is None else inner + of_cell
    found = torch.cat(
        [
            inner * g * i * (1 - i),
            inner * cell * f * (1 - f),
            inner * i * (1 - g**2),
            of_hidden * squashed * o * (1 - o),
        ],
        1,
    )
    return found, inner * f, found.sum(0) if bias else None
