"""What a run tells while it works: progress, logs, metrics."""
