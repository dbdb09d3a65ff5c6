"""What a job reads: shards of any kind, and the rows in them."""
