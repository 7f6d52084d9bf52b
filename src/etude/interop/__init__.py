"""Etude's schedules and its watch in other libraries' training loops, and their schedules here.

| module | content |
|---|---|
| `torch` | `Scheduler`, an `LRScheduler` for any hyperparameter; `from_torch` |
| `keras` | `to_keras`, `from_keras`, `WatchCallback` |
| `optax` | `to_optax` |
| `lightning` | `tune`, `task`, `Tuner`; `configure`, `ScheduleCallback` and `WatchCallback` |
| `transformers` | `tune`, `task`; `scheduled`, `optimizers`, `FeedbackCallback`, `WatchCallback` |
| `tensorboard` | `write` for a record, `TensorBoardSink` for a watch |
| `mlflow`, `wandb` | `MlflowSink`, `WandbSink` for a watch |
| `parity` | the other libraries' functions, under their own names, as schedules |

Each module loads its library only on first use.
"""
