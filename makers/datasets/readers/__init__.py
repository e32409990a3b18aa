"""Sources that are files, one format a module, and what every source yields."""
