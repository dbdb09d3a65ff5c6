"""Algorithms that restore x from y = A x + n."""
