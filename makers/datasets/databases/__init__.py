"""Sources that are databases: the Materials Project, OPTIMADE providers, finished DFT of a store."""
