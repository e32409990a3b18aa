"""The report of a comparison: one page of HTML that needs nothing but a browser."""

from .page import page, write_report

__all__ = ["page", "write_report"]
