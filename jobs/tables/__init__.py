"""Tables of methods and tasks: each cell an ordinary output folder, its rows paired with another's."""
