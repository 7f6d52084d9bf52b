"""Etude's tuning, schedules and watch in other libraries' training, and their schedules here.

| module | content |
|---|---|
| `torch` | `Scheduler`, an `LRScheduler` for any hyperparameter; `from_torch` |
| `keras` | `tune` for `fit`; `to_keras`, `from_keras`, `WatchCallback` |
| `jax` | `tune` for a pure step |
| `sklearn` | `EtudeSearch` for estimators of scikit-learn and nets of skorch |
| `accelerate` | `tune` for a loop with an `Accelerator` |
| `optax` | `to_optax` |
| `lightning` | `tune`, `task`, `Tuner`; `configure`, `ScheduleCallback` and `WatchCallback` |
| `transformers` | `tune`, `task`; `scheduled`, `optimizers`, `FeedbackCallback`, `WatchCallback` |
| `tensorboard` | `write` for a record, `TensorBoardSink` for a watch and for `log=` |
| `mlflow`, `wandb`, `aim` | `MlflowSink`, `WandbSink`, `AimSink` for a watch and for `log=` |
| `parity` | the other libraries' functions, under their own names, as schedules |

Each module loads its library only on first use.
"""
