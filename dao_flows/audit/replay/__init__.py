"""A stored result, computed again from its inputs and compared with what is stored."""
