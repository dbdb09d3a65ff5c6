"""What a run leaves: its folder, from commits to whole shards, with the JSON files that tell of it."""
