"""From noise to crystals, by the ways of each process. Importing this package needs no torch."""
