"""The paper's tables as grids of ordinary runs, with its own values beside what they come to."""
