"""What several commands have in common: tables, progress, streams."""
