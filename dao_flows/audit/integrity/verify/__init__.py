"""Verifying a store: each document is read by itself, then all are related to each other and to files.

`read` reads the documents, one module for each kind of them; what they say of each other stands in the ledger and is
used by `relate`; `store` puts these together.
"""

from .read import COLLECTIONS, Tell
from .store import verify

__all__ = ["COLLECTIONS", "Tell", "verify"]
