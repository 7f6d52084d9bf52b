"""Etude's schedules in other libraries' training loops, and their schedules in Etude.

| module | content |
|---|---|
| `torch` | `Scheduler`, an `LRScheduler` for any hyperparameter; `from_torch` |
| `keras` | `to_keras`, `from_keras` |
| `optax` | `to_optax` |
| `lightning` | `configure` for `configure_optimizers`, and `ScheduleCallback` |
| `transformers` | `scheduled`, `optimizers` and `FeedbackCallback` for the Trainer |
| `parity` | the other libraries' functions, under their own names, as schedules |

Each module loads its library only on first use.
"""
