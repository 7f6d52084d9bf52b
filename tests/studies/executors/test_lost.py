"""Lost workers: every trial comes back once, and one that kills its worker fails alone."""

from hypothesis import given
from hypothesis import strategies as st

from etude.studies.executors.remote import MOST_LOST_GROUP, Lost, RemoteExecutor
from etude.studies.plan import StudyPlan
from etude.studies.trials import planned_trials

TRIALS = planned_trials(StudyPlan(name="a", tasks="cancer-mlp", lrs=[i + 1.0 for i in range(12)]))


class Losing(RemoteExecutor):
    """Its workers are lost as told, and whenever they train a killer."""

    slots = 3

    def __init__(self, killers, losses):
        super().__init__()
        self.killers, self.losses, self.jobs, self.runs = killers, losses, [], []

    def start(self, job):
        self.jobs.append(job)

    def ended(self, seconds):
        job = self.jobs.pop(0)
        rates = [trial["recipe"]["lr"] for trial in job.trials]
        self.runs.append(rates)
        if any(rate in self.killers for rate in rates) or (self.losses and self.losses.pop()):
            return [(job, Lost("killed"))]
        return [(job, [(None, f"rate {rate}", "here") for rate in rates])]


@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    killers=st.sets(st.integers(1, 12).map(float), max_size=3),
    losses=st.lists(st.booleans(), max_size=6),
)
def test_every_trial_comes_back_once_and_in_order(sizes, killers, losses):
    executor, groups, first = Losing(killers, losses), [], 0
    for key, size in enumerate(sizes):
        groups.append(TRIALS[first : first + size])
        executor.submit(key, groups[-1])
        first += size
    found = {}
    while len(found) < len(groups):
        for key, trained in executor.collect(1.0):
            assert key not in found
            found[key] = trained
    assert not executor.jobs
    for key, group in enumerate(groups):
        for trained, trial in zip(found[key], group, strict=True):
            if trial.recipe.lr in killers:
                assert trained.error == "its worker was lost 10 times: killed"
            else:
                assert trained.error == f"rate {trial.recipe.lr}"


def test_a_group_is_repeated_whole_before_its_trials_are_trained_alone():
    executor = Losing({2.0}, [])
    executor.submit(7, TRIALS[:3])
    found = []
    while not found:
        found = executor.collect(1.0)
    assert executor.runs[:MOST_LOST_GROUP] == [[1.0, 2.0, 3.0]] * MOST_LOST_GROUP
    assert all(len(run) == 1 for run in executor.runs[MOST_LOST_GROUP:])
    assert executor.runs.count([1.0]) == executor.runs.count([3.0]) == 1
