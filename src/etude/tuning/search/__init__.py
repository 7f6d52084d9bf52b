"""The search over learning rates: which start, which go on, and which is finished."""

from etude.tuning.search.search import Search as Search
