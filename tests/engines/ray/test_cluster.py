"""A tuning on a Ray cluster: the result of the loop to the bit, whatever node is lost."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from etude import Recipe, tasks
from etude.engines import RayEngine, train_many
from etude.engines.ray.cluster import RayCluster
from etude.errors import BadTypeError, BadValueError, EtudeError, MissingExtraError
from etude.methods.grid import grid
from etude.methods.population import population
from etude.storage.tuning_folder import TuningFolder
from etude.training.request import AdvanceRequest
from etude.training.run import Run
from etude.tuning.tune import tune
from tests.optimizers.own_optimizers import Signs, two_rates
from tests.ray_cluster import STORE

ray = pytest.importorskip("ray")

BUDGET = 3.0


def small(steps=400):
    task = tasks.get("cancer-mlp")
    return task, Recipe(**{**task.defaults, "steps": steps})


def answer(best):
    """All that a tuning says, but for the time it took."""
    weights = [(name, tensor.tolist()) for name, tensor in best.model.state_dict().items()]
    trials = [
        (one.lr, one.record.series["loss"].tolist(), [e.loss for e in one.record.evaluations])
        for one in best.trials
    ]
    return best.lr, best.tied, best.cost, best.costs, best.outcome, trials, weights


def test_an_address_that_is_none_is_refused():
    with pytest.raises(BadValueError, match="'slurm' is no Ray cluster: give 'ray', 'auto' or"):
        RayEngine("slurm")
    with pytest.raises(BadValueError, match="gpus=0 is out of bounds: give more than 0"):
        RayEngine(gpus=0)
    with pytest.raises(BadValueError, match="workers"):
        RayEngine(workers=0)
    with pytest.raises(BadValueError, match=r"keep=0: give seconds above 0"):
        RayEngine(keep=0)


@pytest.mark.parametrize("address", ["auto", "ray://127.0.0.1:1"])
def test_no_cluster_at_the_address_is_said_before_any_training(address, monkeypatch, tmp_path):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    task, recipe = small(32)
    said = f"no Ray cluster can be reached at '{address}'"
    with pytest.raises(EtudeError, match=said):
        tune(task, recipe, engine=RayEngine(address), folder=tmp_path / "run", progress=False)
    assert not TuningFolder(tmp_path / "run").begun


def test_a_token_that_was_not_sent_is_named(monkeypatch):
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with pytest.raises(EtudeError, match="asks for a token, set RAY_AUTH_MODE=token here"):
        RayEngine("ray://127.0.0.1:1").open()


def test_without_ray_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"needs Ray .*pip install 'etude\[ray\]'"):
        RayCluster()


@pytest.mark.slow
def test_a_removed_node_changes_nothing_in_the_answer(joined):
    node = joined.add_node(num_cpus=1, object_store_memory=STORE)
    joined.wait_for_nodes()
    task, recipe = small()
    wanted = answer(tune(task, recipe, BUDGET, engine="loop", progress=False))
    engine, removed = RayEngine("auto", keep=0.05), []
    advance = engine.advance

    def removing(runs, request):
        """Take the second node away in the middle of the second call of the search."""
        calls.append(len(runs))
        told = request.on_step

        def on_step(state, step):
            told(state, step)
            if len(calls) == 2 and not removed:
                removed.append(step)
                joined.remove_node(node, allow_graceful=False)

        return advance(
            runs, AdvanceRequest(request.until, request.evaluation_steps, request.stop, on_step)
        )

    calls = []
    engine.advance = removing
    assert engine.parallel([Run(task, recipe) for _ in range(4)]) == 2
    with engine:
        found = tune(task, recipe, BUDGET, engine=engine, progress=False)
    assert removed
    assert answer(found) == wanted


@pytest.mark.slow
def test_folds_and_records_are_those_of_the_loop(joined):
    task, recipe = small(64)
    with RayEngine("auto") as engine:
        found = grid(task, recipe, [0.001, 0.01], folds=2, engine=engine, progress=False)
        recipes = [recipe.replace(lr=lr) for lr in (0.01, 0.02)]
        ours = train_many(task, recipes, engine)
    same = grid(task, recipe, [0.001, 0.01], folds=2, engine="loop", progress=False)
    assert [one.losses for one in found.rates] == [one.losses for one in same.rates]
    for mine, theirs in zip(ours, train_many(task, recipes, "loop"), strict=True):
        assert mine.series["loss"].tobytes() == theirs.series["loss"].tobytes()
        assert mine.evaluations == theirs.evaluations


@pytest.mark.slow
def test_a_tuning_of_an_optimizer_of_ones_own_has_the_bits_of_the_loop(joined):
    """A class and a function are imported by the workers; what cannot be is refused at once."""
    task, recipe = small(64)
    with RayEngine("auto") as engine:
        for mine in (Signs, two_rates):
            given = recipe.replace(optimizer=mine)
            wanted = answer(tune(task, given, 1.5, engine="loop", progress=False))
            assert answer(tune(task, given, 1.5, engine=engine, progress=False)) == wanted
        hidden = recipe.replace(optimizer=lambda groups, lr: torch.optim.SGD(groups, lr=lr))
        with pytest.raises(
            BadTypeError,
            match=r"<lambda>.* cannot be built on another machine: put it in a module .* or train "
            r"with engine='pool', in processes of this machine$",
        ):
            tune(task, hidden, 1.5, engine=engine, progress=False)


@pytest.mark.slow
def test_what_no_node_can_hold_is_said_instead_of_waiting(joined):
    task, recipe = small(32)
    run = Run(task, recipe)
    run.limit_threads(64)
    with RayEngine("auto") as engine:
        with pytest.raises(EtudeError, match="a run takes 64 cores, and none of the 1 nodes"):
            engine.advance([run])
        run.limit_threads(1)
        run.state.device = torch.device("cuda")
        with pytest.raises(EtudeError, match="none of the 1 nodes of the Ray cluster has 1 GPU"):
            engine.advance([run])


@pytest.mark.slow
def test_ctrl_c_keeps_the_trials_and_the_loop_goes_on_from_them(joined, tmp_path):
    home = tmp_path / "run"
    code = (
        "import sys\n"
        "from etude import Recipe, tasks\n"
        "from etude.engines import RayEngine\n"
        "from etude.tuning.tune import tune\n"
        "task = tasks.get('cancer-mlp')\n"
        "recipe = Recipe(**{**task.defaults, 'steps': 800})\n"
        "with RayEngine('auto', keep=0.1) as engine:\n"
        "    tune(task, recipe, engine=engine, folder=sys.argv[1], progress=False)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(home)], env={**os.environ}, stderr=subprocess.PIPE
    )
    while process.poll() is None and not list(home.glob("trials/*/checkpoints/*")):
        time.sleep(0.05)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert b"the trials are saved" in said
    task = tasks.get("cancer-mlp")
    resumed = tune(task, folder=home, resume=True, engine="loop", progress=False)
    recipe = Recipe(**{**task.defaults, "steps": 800})
    assert answer(resumed) == answer(tune(task, recipe, engine="loop", progress=False))


@pytest.mark.slow
def test_a_population_on_a_cluster_gives_the_bits_of_the_loop(joined):
    """Members copy each other through the driver; the learned schedule is the same."""
    task, recipe = small(80)
    how = {"lrs": [0.001, 0.01, 0.1, 1.0], "generations": 4, "progress": False}
    ours = population(task, recipe, engine="loop", **how)
    theirs = population(task, recipe, engine=RayEngine("auto"), **how)
    assert ours.copied > 0
    assert theirs.recipe == ours.recipe
    assert theirs.members == ours.members
    assert theirs.record.series["loss"].tolist() == ours.record.series["loss"].tolist()
    for name, value in ours.model.state_dict().items():
        assert torch.equal(theirs.model.state_dict()[name], value)
