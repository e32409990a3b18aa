"""The machine that a job runs on: files, places, environment, credentials, wall time, cores."""
