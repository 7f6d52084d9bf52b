"""What a processor cannot compute is said before training: convolutions, lower precision."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, cross_entropy, mse_loss

from etude import Recipe, Task, train
from etude.errors import TaskError
from etude.training.checks import convolutions
from etude.training.checks.convolutions import overruns
from etude.training.machine import precision, processor
from etude.training.run import Run

LAST = torch.channels_last
IMAGES = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(16) % 8
RECIPE = Recipe(optimizer="sgd", lr=0.01, steps=4, batch_size=8)


@pytest.fixture
def avx2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolutions, "convolves_with_avx2", lambda: True)


def network(width: int = 4, **options: Any) -> nn.Sequential:
    strided = nn.Conv2d(width, 8, 1, stride=2, **options)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), strided, nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


def task(model: Any, x: Tensor = IMAGES) -> Task:
    return Task(model, (x, LABELS), valid=(x, LABELS), loss=cross_entropy)


def strictly(task: Task) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(task, RECIPE)


# ---- the capability ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("capability", "limit", "expected"),
    [
        ("AVX2", "", True),
        ("AVX2", "AVX512_CORE", True),
        ("AVX2", "SSE41", False),
        ("AVX2", "avx", False),
        ("AVX512", "", False),
        ("AVX512", "AVX2", True),
        ("AVX512", "avx2_vnni", True),
        ("AVX512", "AVX512_CORE", False),
        ("DEFAULT", "", False),
        ("SVE256", "", False),
    ],
)
def test_onednn_s_code_follows_processor_and_limit(monkeypatch, capability, limit, expected):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.delenv("DNNL_MAX_CPU_ISA", raising=False)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert processor.convolves_with_avx2() is expected
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    assert not processor.convolves_with_avx2()


# ---- strided convolutions in channels-last layout ----------------------------------------


@pytest.mark.usefixtures("avx2")
@pytest.mark.parametrize("width", [2, 4, 7])
@pytest.mark.parametrize("which", ["model", "inputs"])
def test_a_small_strided_convolution_in_channels_last_is_named_before_training(which, width):
    def model() -> nn.Module:
        built = network(width)
        return built.to(memory_format=LAST) if which == "model" else built

    x = IMAGES.contiguous(memory_format=LAST) if which == "inputs" else IMAGES
    # An error in place of the warning, before anything is differentiated.
    with pytest.raises(
        TaskError, match=rf"layer '1', a 1×1 .* stride 2×2 of {width} channels: its "
    ):
        strictly(task(model, x))
    with pytest.warns(UserWarning, match=r"x\.contiguous\(\).*at least 8 channels.*enabled=False"):
        Run(task(model, x), RECIPE).check()


@pytest.mark.usefixtures("avx2")
def test_a_convolution_by_function_is_seen_too():
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernel = nn.Parameter(torch.randn(8, 3, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return conv2d(x, self.kernel * 1, stride=2, padding="valid").mean((2, 3))

    x = IMAGES.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    with pytest.warns(UserWarning, match=r"^a convolution in the model's forward\(\), a 1×1"):
        Run(task(Own, x), RECIPE).check()


HARMLESS = {
    "contiguous": (network, IMAGES, {}),
    "eight channels": (lambda: network(8).to(memory_format=LAST), IMAGES, {}),
    "frozen": (lambda: frozen(network().to(memory_format=LAST)), IMAGES, {}),
    "bfloat16": (lambda: network().to(memory_format=LAST), IMAGES, {"precision": "bfloat16"}),
    "no stride": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()).to(
            memory_format=LAST
        ),
        IMAGES,
        {},
    ),
}


def frozen(model: nn.Sequential, name: str = "") -> nn.Module:
    for parameter_name, parameter in model[1].named_parameters():
        if parameter_name != name:
            parameter.requires_grad_(False)
    return model


@pytest.mark.usefixtures("avx2")
@pytest.mark.parametrize("name", HARMLESS)
def test_what_does_not_overrun_trains_without_a_word(name):
    model, x, changes = HARMLESS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert train(task(model, x), RECIPE.replace(**changes)).status == "finished"


@pytest.mark.usefixtures("avx2")
@pytest.mark.parametrize("name", ["weight", "bias"])
def test_the_gradient_of_weight_or_bias_alone_is_enough(name):
    def model() -> nn.Module:
        return frozen(network().to(memory_format=LAST), name)

    with pytest.warns(UserWarning, match=r"^layer '1', a 1×1 convolution"):
        Run(task(model), RECIPE).check()


def test_a_processor_with_avx_512_is_not_warned(monkeypatch):
    monkeypatch.setattr(convolutions, "convolves_with_avx2", lambda: False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Run(task(network, IMAGES.contiguous(memory_format=LAST)), RECIPE).check()


SHAPES: dict[str, tuple[int, int, Any, int, int, bool]] = {
    # name: channels, side, stride, padding, groups, whether memory is overrun
    **{f"{c} channels": (c, 16, 2, 0, 1, 2 <= c < 8) for c in (1, 2, 3, 4, 5, 6, 7, 8, 12)},
    "stride 3": (4, 33, 3, 0, 1, True),
    "a stride along one side": (4, 32, [1, 2], 0, 1, True),
    "an odd side": (4, 17, 2, 0, 1, False),
    "no stride": (4, 16, 1, 0, 1, False),
    "padding": (4, 16, 2, 1, 1, False),
    "groups": (8, 16, 2, 0, 2, False),
}

REAL = """
import json, os, sys, torch
torch.set_num_threads(1)
for name, (channels, side, stride, padding, groups, _) in json.load(sys.stdin).items():
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        layer = torch.nn.Conv2d(channels, 8, 1, stride, padding, groups=groups, bias=False)
        x = torch.randn(4, channels, side, side).contiguous(memory_format=torch.channels_last)
        for _ in range(6):
            layer(x).pow(2).sum().backward()
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps([name, status]), flush=True)
"""
"""glibc's checked heap notices every write beyond a block when the block is freed."""


def shaped(channels: int, side: int, stride: Any, padding: int, groups: int) -> bool:
    x = torch.zeros(4, channels, side, side).contiguous(memory_format=LAST)
    weight = torch.zeros(8, channels // groups, 1, 1)
    return overruns(x, weight, stride, padding, groups)


def test_the_condition_says_of_each_shape_what_was_found():
    assert {name: shaped(*row[:5]) for name, row in SHAPES.items()} == {
        name: row[5] for name, row in SHAPES.items()
    }


def test_the_condition_asks_for_all_that_it_names():
    x = torch.zeros(4, 4, 8, 8).contiguous(memory_format=LAST)
    weight = torch.zeros(8, 4, 1, 1)
    assert overruns(x, weight, 2)
    assert overruns(x.contiguous(), weight.to(memory_format=LAST), (2, 1))
    assert overruns(torch.zeros(4, 9, 8, 8).to(memory_format=LAST)[:, 2:6], weight, 2)
    assert not overruns(x.double(), weight.double(), 2)
    assert not overruns(x, torch.zeros(8, 4, 3, 3), 2)
    assert not overruns(x[:1], weight, 2)
    assert overruns(torch.zeros(1, 4, 80, 80).to(memory_format=LAST), weight, 2)
    assert not overruns(x[0], weight, 2)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's checked heap")
@pytest.mark.skipif(not processor.convolves_with_avx2(), reason="oneDNN does not use AVX2 here")
def test_the_condition_is_the_processor_s_own():
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "LD_PRELOAD": "libc_malloc_debug.so.0",
        "GLIBC_TUNABLES": "glibc.malloc.check=3",
    }
    done = subprocess.run(
        [sys.executable, "-c", REAL],
        input=json.dumps(SHAPES),
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    if "libc_malloc_debug" in done.stderr:
        pytest.skip("no checked heap on this machine")
    found = dict(map(json.loads, done.stdout.splitlines()))
    assert {name: found[name] != 0 for name in SHAPES} == {n: row[5] for n, row in SHAPES.items()}


# ---- precision ---------------------------------------------------------------------------


class Reads(nn.Module):
    """A recurrent layer and a head."""

    def __init__(self, kind: Any, **options: Any) -> None:
        super().__init__()
        self.cell = kind(3, 4, batch_first=True, **options)
        self.head = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0][:, -1])


def series(kind: Any, **options: Any) -> Task:
    x = torch.randn(16, 5, 3, generator=torch.Generator().manual_seed(0))
    y = x.sum((1, 2))[:, None]
    return Task(lambda: Reads(kind, **options), (x, y), valid=(x, y), loss=mse_loss)


KINDS = {
    "lstm": (nn.LSTM, {}),
    "stacked lstm": (nn.LSTM, {"num_layers": 2, "bias": False}),
    "gru": (nn.GRU, {}),
    "rnn": (nn.RNN, {"nonlinearity": "relu"}),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_recurrent_layer_trains_in_bfloat16_or_the_recipe_is_refused(name):
    kind, options = KINDS[name]
    recipe = RECIPE.replace(precision="bfloat16")
    reason = precision.refusal(kind(3, 4, **options), "bfloat16")
    if not reason:
        assert train(series(kind, **options), recipe).status == "finished"
        return
    with pytest.raises(TaskError, match=r"^precision='bfloat16': layer 'cell' .* on the CPU of "):
        train(series(kind, **options), recipe)
    assert train(series(kind, **options), RECIPE).status == "finished"


def test_the_refusal_names_layer_precision_and_way_out(monkeypatch):
    monkeypatch.setattr(precision, "refusal", lambda *_: "no primitive")
    with pytest.raises(
        TaskError,
        match=r"^precision='bfloat16': layer 'cell' \(GRU\) cannot be computed in bfloat16 on the "
        r"CPU of this machine \(no primitive\): give precision='float32'$",
    ):
        Run(series(nn.GRU), RECIPE.replace(precision="bfloat16")).check()
    Run(series(nn.GRU), RECIPE).check()


def test_the_layer_is_really_tried(monkeypatch):
    def refuses(self: nn.Module, *_: Any) -> Any:
        if torch.is_autocast_enabled("cpu"):
            raise RuntimeError("could not create a primitive\nmore lines")
        return torch.ones(2, 3, 4, requires_grad=True), None

    monkeypatch.setattr(nn.GRU, "forward", refuses)
    assert precision.refusal(nn.GRU(3, 4), "bfloat16") == "could not create a primitive"
    assert precision.refusal(nn.GRU(3, 4), "float32") == ""


def test_whatever_runs_in_single_precision_alone_is_the_precision_s_fault():
    class Fails(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            output = super().forward(x)
            if output.dtype == torch.bfloat16:
                raise RuntimeError("not implemented for 'BFloat16'")
            return output

    x = torch.randn(16, 3)
    fails = Task(lambda: Fails(3, 1), (x, x[:, :1]), valid=(x, x[:, :1]), loss=mse_loss)
    recipe = RECIPE.replace(precision="bfloat16")
    with pytest.raises(
        TaskError, match=r"^precision='bfloat16': .* in float32, and fails in bfloat16 .*'BFloat16'"
    ):
        train(fails, recipe)
    never = Task(lambda: nn.Linear(4, 1), (x, x[:, :1]), valid=(x, x[:, :1]), loss=mse_loss)
    with pytest.raises(TaskError, match=r"^the model failed on inputs"):
        train(never, recipe)
