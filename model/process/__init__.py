"""From crystals to noise and what the network learns along the way: diffusion, flow matching, bridges."""
