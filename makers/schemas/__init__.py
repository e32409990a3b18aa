"""The documents that makers write, and how stored data become objects."""

from .prediction import CandidateDoc, GenerationDoc, ScreeningDoc

__all__ = ["CandidateDoc", "GenerationDoc", "ScreeningDoc"]  # stores name them by this path
