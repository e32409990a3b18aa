"""A prediction in its parts: what is asked for, makers, batches and results; `dao_flows.api.predict` runs it."""
