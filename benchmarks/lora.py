"""How near the prior for low-rank adapters comes to the best rate of a grid.

Small networks are trained in full on one task, and adapted to another by LoRA (peft) at ranks 4 to
64, with alpha 16 and with alpha twice the rank. Every rate of a grid of factors of two is trained
to the end. The first rate of `etude.tune` is what `etude.optimizers.prior` says of the model:

    python -m benchmarks.lora              all networks: about ten minutes
    python -m benchmarks.lora digits-mlp   one of them; the others keep their last figures

The constants of the prior were fitted on `FITTED`, not on `HELD`. The results go
to benchmarks/results/lora.json and lora.md.
"""

from __future__ import annotations

import copy
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from pydoc_data import topics

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import arguments
from etude import Recipe, Task, tasks, train
from etude.optimizers.adapters import Adapter, adapters, middle
from etude.optimizers.choice import OptimizerChoice
from etude.optimizers.prior import has_attention, lora_centre
from etude.tasks.bundled.text import VOCABULARY, encode

RESULTS = Path(__file__).parent / "results"
FITTED = ("digits-mlp", "digits-transformer", "text-transformer")
HELD = ("gpt2",)
RANKS, FEWER = (4, 8, 16, 32, 64), (4, 16, 64)
RATES = tuple(2.0**k * 1e-3 for k in range(8))
FULL_RATES = tuple(2.0**k * 1e-3 for k in range(-4, 5))
TIED = 0.02
"""A rate ties with the best if it misses at most this share of the drop in loss."""

CONTEXT = 48


@dataclass(frozen=True)
class Subject:
    """A network that knows one task, and the task that it is adapted to.

    Attributes:
        model: Builds the network with the weights that it was pretrained to.
        task: The task to adapt it to, given what builds the network.
        layers: The names of the layers that get adapters.
        steps: The updates of the adaptation.
        transposed: Whether the layers keep their weights as inputs × outputs.
        ranks: The ranks to adapt with.
    """

    model: nn.Module
    task: Callable[[Callable[[], nn.Module]], Task]
    layers: list[str]
    steps: int
    transposed: bool = False
    ranks: tuple[int, ...] = RANKS


def windows(text: str, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return windows of a text, and the same a symbol later."""
    symbols = encode(text)
    g = torch.Generator().manual_seed(seed)
    starts = torch.randint(0, len(symbols) - CONTEXT - 1, (count,), generator=g)
    both = torch.stack([symbols[s : s + CONTEXT + 1] for s in starts.tolist()])
    return both[:, :-1].contiguous(), both[:, 1:].contiguous()


def next_symbol(outputs: Any, targets: Tensor) -> Tensor:
    """The cross-entropy of the next symbol, of a network or of one of transformers."""
    logits: Tensor = getattr(outputs, "logits", outputs)
    loss: Tensor = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    return loss


def manual(build: Callable[[], nn.Module]) -> Task:
    """The manual of Python: English prose, which a network of source text does not know."""
    text = "\n".join(topics.topics[name] for name in sorted(topics.topics))
    cut = int(0.8 * len(text))
    valid = windows(text[cut:], 512, 1)
    return Task(build, windows(text[:cut], 4096, 0), valid=valid, loss=next_symbol)


def mirrored(name: str) -> Callable[[Callable[[], nn.Module]], Task]:
    """The digits of a bundled task, each mirrored left to right."""
    given = tasks.get(name)

    def mirror(x: Tensor) -> Tensor:
        return x.reshape(len(x), 8, 8).flip(2).reshape(x.shape)

    def task(build: Callable[[], nn.Module]) -> Task:
        (x, y), (held, answers) = (_tensors(part) for part in (given.train, given.valid))
        return Task(
            build, (mirror(x), y), valid=(mirror(held), answers), loss=nn.functional.cross_entropy
        )

    return task


def _tensors(data: Any) -> tuple[Tensor, Tensor]:
    inputs, targets = data.tensors
    return inputs, targets


def pretrained(name: str) -> nn.Module:
    """Return the network of a bundled task, trained by its own recipe."""
    task = tasks.get(name)
    model = train(task, Recipe(**task.defaults), evaluations=1).model
    assert isinstance(model, nn.Module)
    return model


def text_transformer() -> Subject:
    """A causal transformer of width 64 that knows Python's source, adapted to its manual."""
    layers = ["query", "key", "value", "out", "up", "down"]
    return Subject(pretrained("text-transformer"), manual, layers, 120, ranks=FEWER)


def digits_mlp() -> Subject:
    """Two hidden layers that know upright digits, adapted to mirrored ones."""
    return Subject(pretrained("digits-mlp"), mirrored("digits-mlp"), ["linear", "head"], 300)


def digits_transformer() -> Subject:
    """A transformer over the rows of upright digits, adapted to mirrored ones."""
    layers = ["query", "key", "value", "out", "up", "down"]
    model = pretrained("digits-transformer")
    return Subject(model, mirrored("digits-transformer"), layers, 200, ranks=FEWER)


def gpt2() -> Subject:
    """GPT-2 of width 48 from transformers that knows Python's source, adapted to its manual."""
    import transformers

    def build() -> nn.Module:
        sizes: dict[str, Any] = {"n_positions": CONTEXT, "n_embd": 48, "n_layer": 2, "n_head": 4}
        sizes |= dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
        sizes |= {"bos_token_id": 0, "eos_token_id": 0, "vocab_size": VOCABULARY}
        config = transformers.GPT2Config(**sizes)
        model: nn.Module = transformers.GPT2LMHeadModel(config)
        return model

    source = tasks.get("text-transformer")
    (x, y) = _tensors(source.train)
    short = (x[:, :CONTEXT].contiguous(), y[:, :CONTEXT].contiguous())
    task = Task(build, short, loss=next_symbol)
    recipe = Recipe(lr=3e-3, steps=250, batch_size=32, schedule="warmup('5%') >> cosine()")
    model = train(task, recipe, evaluations=1).model
    assert model is not None
    layers = ["c_attn", "c_proj", "c_fc"]
    return Subject(model, manual, layers, 120, transposed=True, ranks=FEWER)


SUBJECTS: dict[str, Callable[[], Subject]] = {
    "text-transformer": text_transformer,
    "digits-mlp": digits_mlp,
    "digits-transformer": digits_transformer,
    "gpt2": gpt2,
}


def adapted(subject: Subject, rank: int, alpha: int) -> nn.Module:
    """Return the network with adapters of a rank, its own weights frozen."""
    import peft

    config = peft.LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=subject.layers,
        fan_in_fan_out=subject.transposed,
        lora_dropout=0.0,
    )
    model: nn.Module = peft.get_peft_model(copy.deepcopy(subject.model), config)
    return model


def losses(task: Task, rates: tuple[float, ...], steps: int) -> dict[float, float]:
    """Return the loss at the end of each rate, and that of the untrained network as rate 0."""
    recipe = Recipe(
        optimizer={"name": "adamw", "weight_decay": 0.0},
        schedule="warmup('5%') >> cosine()",
        steps=steps,
        batch_size=32,
    )
    found = {}
    for rate in rates:
        record = train(task, recipe.replace(lr=rate), evaluations=1)
        found[0.0] = record.evaluations[0].loss
        ended = math.inf if record.valid_loss is None else record.valid_loss
        found[rate] = ended if math.isfinite(ended) else math.inf
    return found


def best_of(found: dict[float, float]) -> tuple[float, tuple[float, float]]:
    """Return the best rate, and the lowest and highest that tie with it.

    The best is the vertex of the parabola through the lowest point and its two neighbours, in the
    logarithm of the rate.
    """
    rates = sorted(rate for rate in found if rate)
    low = min(rates, key=lambda rate: found[rate])
    drop = max(found[0.0] - found[low], 0.0)
    tied = [rate for rate in rates if found[rate] - found[low] <= TIED * drop]
    at = rates.index(low)
    best = low
    if 0 < at < len(rates) - 1:
        before, here, after = (found[rates[at + k]] for k in (-1, 0, 1))
        bend = before - 2 * here + after
        if math.isfinite(bend) and bend > 0:
            best = low * 2 ** (0.5 * (before - after) / bend)
    return best, (min(tied), max(tied))


def measured(name: str) -> list[dict[str, Any]]:
    """Measure one network: full fine-tuning, and each rank and alpha."""
    subject = SUBJECTS[name]()
    full = losses(subject.task(partial(copy.deepcopy, subject.model)), FULL_RATES, subject.steps)
    rows = [{"network": name, "rank": 0, "alpha": 0, **_found(full)}]
    for rank in subject.ranks:
        for alpha in sorted({16, 2 * rank}):
            task = subject.task(partial(adapted, subject, rank, alpha))
            model = task.build()
            inputs = middle(adapters(model))[2]
            row = {"network": name, "rank": rank, "alpha": alpha, "inputs": inputs}
            row |= {"attention": has_attention(model)}
            rows.append({**row, **_found(losses(task, RATES, subject.steps))})
            print(name, rank, alpha, f"{rows[-1]['best']:.4f} {prior(rows[-1]):.4f}", flush=True)
    return rows


def _found(ends: dict[float, float]) -> dict[str, Any]:
    best, tied = best_of(ends)
    return {"losses": {f"{rate:g}": end for rate, end in ends.items()}, "best": best, "tied": tied}


def prior(row: dict[str, Any]) -> float:
    """Return the rate at which `tune` begins for a row's adapters, with AdamW."""
    one = Adapter("lora_A", row["rank"], row["inputs"], row["alpha"] / row["rank"], 1)
    attention = bool(row["attention"])
    return float(10 ** lora_centre((one,), OptimizerChoice("adamw"), attention=attention))


def missed(row: dict[str, Any]) -> float:
    """Return the share of the drop that the prior misses, against the best rate of the grid.

    Its loss is interpolated between the rates of the grid, in the logarithm of the rate.
    """
    ends = {float(rate): loss for rate, loss in row["losses"].items()}
    rates = sorted(rate for rate in ends if rate)
    lowest = min(ends[rate] for rate in rates)
    at = np.interp(math.log(prior(row)), np.log(rates), [ends[rate] for rate in rates])
    return float((at - lowest) / (ends[0.0] - lowest))


def report(results: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    where = results["environment"]
    lines = [
        "# The prior of low-rank adapters",
        "",
        f"{where['machine']}, {where['torch']}. AdamW without decay, `warmup('5%') >> cosine()`, "
        "one seed. The best is the vertex of a parabola through the lowest of a grid of factors "
        f"of two; rates that miss at most {TIED:.0%} of the drop in validation loss tie with it.",
    ]
    for title, names in (("Fitted on", FITTED), ("Held apart", HELD)):
        rows = [row for name in names for row in results["rows"].get(name, ())]
        if rows:
            lines += _table(title, rows)
    return "\n".join(lines) + "\n"


def _table(title: str, rows: list[dict[str, Any]]) -> list[str]:
    full = {row["network"]: row["best"] for row in rows if not row["rank"]}
    lines = [
        "",
        f"## {title}",
        "",
        "| network | rank | alpha | best | × full | tied | prior | prior / best | it misses |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    ratios = []
    for row in rows:
        low, high = row["tied"]
        tied = f"{low:.2g} to {high:.2g}"
        if not row["rank"]:
            lines.append(f"| {row['network']} | full | | {row['best']:.2g} | 1 | {tied} | | | |")
            continue
        ratio = prior(row) / row["best"]
        ratios.append(abs(math.log2(ratio)))
        times = row["best"] / full[row["network"]]
        lines.append(
            f"| {row['network']} | {row['rank']} | {row['alpha']} | {row['best']:.2g} "
            f"| {times:.1f} | {tied} | {prior(row):.2g} | {ratio:.2f} | {missed(row):.1%} |"
        )
    within = sum(ratio <= 1 for ratio in ratios)
    middle, worst = 2 ** statistics.median(ratios), 2 ** max(ratios)
    lines += [
        "",
        f"Within a factor of two: {within} of {len(ratios)}; the median factor is {middle:.2f}, "
        f"the largest {worst:.2f}.",
    ]
    return lines


def main(names: list[str]) -> None:
    """Measure, and keep the results."""
    path = RESULTS / "lora.json"
    torch.set_num_threads(1)
    for name in names or list(SUBJECTS):
        started = time.perf_counter()
        rows = measured(name)
        # Read again here, so that networks can be measured in several processes.
        results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"rows": {}}
        results["rows"][name] = rows
        results["environment"] = {
            "torch": f"torch {torch.__version__}",
            "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        }
        print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
        path.write_text(json.dumps(results, indent=1) + "\n")
        (RESULTS / "lora.md").write_text(report(results))


if __name__ == "__main__":
    main(arguments.read(__doc__, names="network")[0])
