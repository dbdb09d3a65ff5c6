"""Ray, its machines, and what workers and driver tell each other between receipts."""
