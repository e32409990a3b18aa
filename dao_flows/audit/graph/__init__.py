"""Where a stored result comes from: the graph of what was made from what, and drawings of it."""
