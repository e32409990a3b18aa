"""Rounds of improvement: their file, the flow that it means, and what it costs."""
