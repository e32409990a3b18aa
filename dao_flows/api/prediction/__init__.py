"""What a prediction is asked for: formulas and a request, its makers, its batches. `dao_flows.api.predict` runs it."""
