"""Measurements of what the pipeline takes beside the restoring itself."""
