"""What several algorithms share: settings of a block each, and what is done with them."""
