"""dao_flows: crystal structures from compositions, with provenance."""

__version__ = "0.1.0"
