"""The base of all errors that whoever uses the package can put right."""

from __future__ import annotations


class DaoError(ValueError):
    """Input, a setting or a file cannot be used; the message is one line that says what is wrong and what helps."""
