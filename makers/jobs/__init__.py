"""What makes a function of ours a job: the decorator, its documents' provenance, attempts, reuse, progress."""
