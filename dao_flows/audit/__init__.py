"""Where a stored result comes from, and whether it is still what it was: its graph, its verification, its replay."""
