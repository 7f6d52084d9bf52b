"""How early a coming divergence is told, and how often one is told that does not come.

    python -m benchmarks.divergence record    # train the runs that are missing
    python -m benchmarks.divergence zoo       # run the healthy open cases of the zoo
    python -m benchmarks.divergence           # score the rules -> benchmarks/results/divergence.md

Runs of bundled tasks are recorded once, with the loss and the gradient's norm of every update; the
rules then read the losses, update by update. `judge.py` says what counts as a divergence and which
divergences have a precursor.
"""
