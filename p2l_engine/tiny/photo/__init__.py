"""A small model of photographs: its data, its auto-encoder, its U-Net and what measures them."""
