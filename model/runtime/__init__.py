"""How the model runs on a device: batches, memory, matrix products, random streams."""
