"""The version of this package, which documents name; it imports nothing, so that all floors may."""

__version__ = "0.1.0"
