"""DAO against what was verified: a document for each candidate, figures over many, and a report of them."""
