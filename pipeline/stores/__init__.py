"""Files of any store by their address, and what passes by itself when one of them fails."""
