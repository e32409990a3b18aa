"""What a user can do about a failed job, told from the end of its traceback."""

from __future__ import annotations

import re

AGAIN = "then `dao-flows rerun`"
ADVICE = (  # the first that fits
    (
        r"DocumentTooLarge|(document|object to insert) too large|larger than \D*16777216|BSONObj size",
        "what it would store is larger than the 16 MB that MongoDB takes in one document: submit fewer candidates to "
        "a job (DAO_FLOWS_BATCH_CANDIDATES, -n)",
    ),
    (r"Errno 28\]|No space left on device", f"no space is left in its directory: free some, {AGAIN}"),
    (r"Errno 122\]|Disk quota exceeded", f"the quota of its directory is used up: free some, {AGAIN}"),
    (
        r"Stopped: the worker was ended",
        f"the queue ended it: more wall time (--route STAGE.walltime=HH:MM:SS) or less work, {AGAIN}",
    ),
    (
        r"OutOfMemoryError|MemoryError|bad_alloc",
        f"out of memory: ask for a larger GPU or more memory in its qadapter file, {AGAIN}",
    ),
    (
        r"pymongo\.errors\.(ServerSelectionTimeoutError|AutoReconnect|NetworkTimeout|ConnectionFailure)",
        f"the database was away for too long: see that it answers (`dao-flows init FOLDER --check`), {AGAIN}",
    ),
    (
        r"(CheckpointError|ModuleNotFoundError|FileNotFoundError)",
        f"is that there on the nodes, too? env.sh says what the jobs see; {AGAIN}",
    ),
)


def advise(traceback: str) -> str | None:
    """A line for the user, if the traceback's last line is of a known kind."""
    said = [line for line in traceback.splitlines() if line.strip()]
    last = next((line for line in reversed(said) if re.match(r"[\w.]+(:|$)", line)), "")
    return next((advice for pattern, advice in ADVICE if re.search(pattern, last)), None)
