"""Checkpoints: their folder, where they live, what they come from, and those that others published."""
