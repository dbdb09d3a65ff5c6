"""Image shards through Ray Data to restored Parquet, resumable at any moment."""
