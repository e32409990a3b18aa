"""The training loop and all that it keeps, tells and resumes from."""
