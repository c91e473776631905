"""WHAT is searched: sweeps, trials and their identities, as pure data (no torch, Ray or MLflow)."""
