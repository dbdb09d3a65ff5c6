"""Encoded files to pixels and masks, and back."""
