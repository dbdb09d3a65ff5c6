"""Benchmarks on the shipped model: ``python -m jobs.benchmark --help``."""
