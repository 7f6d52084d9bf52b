"""One thread, so that the suite's processes share the cores; no deadline, as machines differ.

Hypothesis draws the same examples every time; HYPOTHESIS_PROFILE=explore draws new ones.
"""

from __future__ import annotations

import gc
import os
import tempfile

os.environ.setdefault("OMP_NUM_THREADS", "1")
if not os.environ.get("ETUDE_TEST_GPU"):  # the laws are stated of the CPU; tests/gpu has its own
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
# Which task files are trusted is noted apart from what the user's own runs have noted.
_state = tempfile.TemporaryDirectory(prefix="etude-state-")  # removed when the tests end
os.environ.setdefault("ETUDE_STATE_DIR", _state.name)

import pytest  # noqa: E402 - the variables above are read where torch is imported
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

from tests.ray_cluster import cluster, joined  # noqa: E402, F401 - fixtures

torch.set_num_threads(1)
settings.register_profile("etude", deadline=None, print_blob=True, derandomize=True)
settings.register_profile("explore", deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "etude"))

# The collector would walk through all tests and libraries again and again, for a third of the time.
gc.disable()


def pytest_collection_finish() -> None:
    gc.enable()


@pytest.fixture(autouse=True, scope="module")
def leave_out_of_collections_what_stays() -> None:
    """Exempt from garbage collection what was there before a file, such as imported libraries."""
    gc.collect()
    gc.freeze()
