"""Runs one function in a world, and prints its error once: `python -m tests.distributed.alone`."""

from __future__ import annotations

import importlib
import sys

import torch

from etude.distributed import join


def main(name: str) -> None:
    torch.set_num_threads(1)
    module, _, function = name.partition(":")
    world = join()
    try:
        getattr(importlib.import_module(module), function)(world)
    except Exception as error:  # noqa: BLE001 - it is what the test looks at
        if world.is_main:
            print(f"FAILED {type(error).__name__}: {error}", flush=True)
        raise SystemExit(1) from None
    finally:
        world.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
