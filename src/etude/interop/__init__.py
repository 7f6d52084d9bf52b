"""Etude's schedules in other people's training loops, and theirs in Etude.

| module | gives |
|---|---|
| `torch` | `Scheduler`, an `LRScheduler` for any hyperparameter; `from_torch` |
| `keras` | `to_keras`, `from_keras` |
| `optax` | `to_optax` |
| `lightning` | `configure` for `configure_optimizers`, and `ScheduleCallback` |
| `transformers` | `scheduled`, `optimizers` and `FeedbackCallback` for the Trainer |
| `parity` | the peers' own functions, by their own names, as schedules |

Each loads its peer only when something of it is used.
"""
