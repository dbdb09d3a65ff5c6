"""The small pixel-domain model: its weights, and the recipe that trained it."""
