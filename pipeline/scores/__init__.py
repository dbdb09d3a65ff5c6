"""Scores of a finished output by trained networks: distances of pairs, and of sets by their features."""
