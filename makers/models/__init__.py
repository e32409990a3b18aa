"""How a stage comes by its networks and force fields."""
