"""What a person or a cluster's job submission starts: thin commands over `pipeline` and `p2l_engine`."""
