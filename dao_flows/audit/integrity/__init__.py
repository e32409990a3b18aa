"""Whether a store is still what it was when it was written, and who vouches for it."""
