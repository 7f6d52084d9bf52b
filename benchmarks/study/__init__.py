"""What a study costs: against Optuna's own loop, its storage, Ray, and 1,000 workers."""
