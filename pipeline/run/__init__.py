"""A run, start to end, and the ways in which it ends early."""
