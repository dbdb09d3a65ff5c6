"""What a person or a cluster's job submission starts: thin commands over `pipeline` and `p2l_engine`."""

from p2l_first import own_packages

own_packages()
