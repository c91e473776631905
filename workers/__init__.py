"""HOW one trial runs: masks, pruning, rewinding, the DeepSpeed engine (no Ray, no MLflow)."""
