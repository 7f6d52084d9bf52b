"""A program for its own network namespace: prints what two ranks count, and what the kernel does.

python -m tests.distributed.exchange.wire METHOD ...
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from etude.distributed.exchange.base import ExchangeSetting
from etude.distributed.exchange.table import row_of
from etude.recipe_exchange import compression
from tests.distributed.exchange.common import in_ranks

UPDATES, WIDTH = 6, 400


def sent_on_loopback() -> int:
    """Return the bytes that the kernel has sent on the loopback device."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == "lo":
            return int(numbers.split()[8])
    raise AssertionError("no loopback device")


def main() -> None:
    """Train with each method, and print (counted, sent) for each."""
    found = {}
    for method in sys.argv[1:]:

        def run(group, method=method):
            model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH))
            ddp = DistributedDataParallel(model, process_group=group)
            policy = compression(method)
            exchange = row_of(policy).factory(policy, group)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
            exchange.prepare(ExchangeSetting(model, optimizer, UPDATES, peak=0))
            exchange.attach(ddp)
            x = torch.ones(4, WIDTH)
            counted = before = 0
            for step in range(UPDATES):
                if step == 2:  # from here PowerSGD compresses, and all connections are open
                    group.inner.barrier().wait()
                    counted, before = exchange.bytes_sent, sent_on_loopback()
                    group.inner.barrier().wait()
                exchange.before_update(step)
                optimizer.zero_grad()
                ddp(x).square().mean().backward()
                optimizer.step()
                exchange.after_update(step, model)
            group.inner.barrier().wait()
            return exchange.bytes_sent - counted, sent_on_loopback() - before

        ranks = in_ranks(2, run)
        found[method] = sum(counted for counted, _ in ranks), max(sent for _, sent in ranks)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
