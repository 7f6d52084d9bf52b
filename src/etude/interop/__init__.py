"""Etude's schedules and its watch in other libraries' training loops, and their schedules here.

| module | content |
|---|---|
| `torch` | `Scheduler`, an `LRScheduler` for any hyperparameter; `from_torch` |
| `keras` | `to_keras`, `from_keras`, `WatchCallback` |
| `optax` | `to_optax` |
| `lightning` | `configure` for `configure_optimizers`, `ScheduleCallback` and `WatchCallback` |
| `transformers` | `scheduled`, `optimizers`; `FeedbackCallback` and `WatchCallback` |
| `tensorboard` | `write` for a record, `TensorBoardSink` for a watch |
| `mlflow`, `wandb` | `MlflowSink`, `WandbSink` for a watch |
| `parity` | the other libraries' functions, under their own names, as schedules |

Each module loads its library only on first use.
"""
