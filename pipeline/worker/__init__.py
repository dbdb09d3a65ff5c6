"""What an actor does: rows in, measurements, restored rows, commits."""
