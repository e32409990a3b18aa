"""The makers floor: jobflow Makers, one stage a file, and the documents that they write."""
