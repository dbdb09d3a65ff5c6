"""Kills, damage and lost machines, made on purpose; `python -m jobs.benchmark` runs them."""
