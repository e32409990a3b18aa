"""Names and places of files, wherever they come from."""
