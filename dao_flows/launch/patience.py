"""Patience with a database that is away: in a worker, every operation waits for it, and no job fails of it.

FireWorks reports each job by a row of single operations, and between any two of them takes an error of the driver for
one of the job. pymongo itself waits for a server (serverSelectionTimeoutMS) but gives up an operation whose connection
breaks, or repeats it once, and writes only on replica sets. So the workers of a project repeat operations here, in the
one place that FireWorks, jobflow and maggma all go through: the methods of pymongo's Collection.

Repeating is right only for what may happen twice. What FireWorks and maggma do in workers is of that kind: documents
are replaced by key, fields set, counters of ids may skip one. Two are not, and are seen to: claiming any job that is
ready carries a mark, by which a claim whose answer was lost is found again; inserts are left to the driver.

tenacity was weighed: FireWorks leaves no hook for it, and it would replace the loop in `wait_for` alone, whose limit
shrinks while it waits, and which says once that it waits and once that it is over: with callbacks that is no shorter.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from functools import partial, wraps
from threading import Event, local
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from dao_flows.makers.machine.masking import one_line

if TYPE_CHECKING:
    from pymongo.errors import BulkWriteError

HOUR = 3600.0
PAUSE, LONGEST_PAUSE = 0.2, 10.0  # s between attempts
MARK = "dao_flows_claim"  # of a job that is just being claimed
REPEATED = (
    "aggregate",
    "bulk_write",
    "count_documents",
    "delete_many",
    "delete_one",
    "distinct",
    "find_one",
    "find_one_and_delete",
    "find_one_and_replace",
    "find_one_and_update",
    "replace_one",
    "update_many",
    "update_one",
)
LAST_WORDS = 15.0  # s for a worker that is being ended
_state = local()
_ending = Event()


def be_patient(seconds: float = HOUR) -> None:
    """From now on operations of this process on a MongoDB wait for a server that is away, so long at most."""
    from pymongo.collection import Collection
    from pymongo.cursor import Cursor

    for name in REPEATED:
        setattr(Collection, name, _patient(getattr(Collection, name), seconds))
    patient: Any = _patient_cursor(Cursor.next, seconds)
    vars_of: Any = Cursor
    vars_of.next = vars_of.__next__ = patient


def hurry() -> None:
    """From now on wait for moments only: this process is being ended."""
    _ending.set()


def wait_for(operation: Callable[[], Any], seconds: float, repair: Callable[[], None] = lambda: None) -> Any:
    """The operation's result, repeated after `repair` while the server is away. Raises the driver's error then."""
    from pymongo.errors import ConnectionFailure, PyMongoError

    since, pause = time.monotonic(), PAUSE
    said = False
    while True:
        away = False
        try:
            return operation()
        except PyMongoError as error:
            away = isinstance(error, ConnectionFailure) or error.has_error_label("RetryableWriteError")
            patience = min(seconds, LAST_WORDS) if _ending.is_set() else seconds
            if not away or time.monotonic() - since > patience:
                raise
            if not said:
                reason = one_line(error).split(" (configured")[0]  # pymongo adds its timeouts and its topology
                _say(f"the database does not answer, waiting for up to {seconds / 60:.0f} min: {reason}")
                said = True
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            repair()
        finally:
            if said and not away:  # an error is an answer too, and so is the end of a cursor
                _say(f"the database answers again after {time.monotonic() - since:.0f} s")


def _patient(method: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    """The method, repeated; not one that another of these calls."""
    from pymongo.errors import BulkWriteError

    @wraps(method)
    def patient(self: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(_state, "waiting", False) or _adds(method.__name__, args):
            return method(self, *args, **kwargs)
        operation: Callable[[], Any] = partial(method, self, *args, **kwargs)
        if method.__name__ == "find_one_and_update" and _is_claim(*args[:2]):
            operation = _claim(method, self, *args, **kwargs)
        _state.waiting = True
        try:
            return wait_for(operation, seconds)
        except BulkWriteError as error:
            raise _in_short(error) from None
        finally:
            _state.waiting = False

    return patient


def _in_short(error: BulkWriteError) -> Exception:
    """The same error without the documents, which pymongo's has in its message, however large they are."""
    from pymongo.errors import WriteError

    found = error.details.get("writeErrors") or error.details.get("writeConcernErrors") or [{}]
    said = sorted({str(each.get("errmsg", "of no known kind")) for each in found})
    return WriteError(f"{len(found)} documents could not be written: {'; '.join(said)[:1000]}", found[0].get("code"))


def _adds(name: str, args: tuple[Any, ...]) -> bool:
    """Whether an operation may not happen twice: an insert among others, a list that grows."""
    from pymongo import InsertOne

    if name == "bulk_write":
        return any(isinstance(request, InsertOne) for request in args[0])
    change = args[1] if name in ("update_one", "update_many", "find_one_and_update") and len(args) > 1 else {}
    return isinstance(change, Mapping) and any(operator in change for operator in ("$push", "$pop", "$mul"))


def _is_claim(query: Any = None, change: Any = None) -> bool:
    """Whether this is FireWorks' claim of whichever job is ready."""
    if not isinstance(query, Mapping) or not isinstance(change, Mapping):
        return False
    return query.get("state") == "READY" and change.get("$set", {}).get("state") == "RESERVED"


def _claim(
    method: Callable[..., Any], jobs: Any, query: Any, change: Any, *args: Any, **kwargs: Any
) -> Callable[[], Any]:
    """A claim that does not take a second job when the answer to the first attempt was lost."""
    mark = uuid4().hex
    marked = {**change, "$set": {**change["$set"], MARK: mark}}
    tried = False

    def claim() -> Any:
        nonlocal tried
        if tried and (found := jobs.find_one({"state": "RESERVED", MARK: mark})) is not None:
            return found
        tried = True
        return method(jobs, query, marked, *args, **kwargs)

    return claim


def _patient_cursor(method: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    """A cursor's next document; a cursor that has given none yet begins anew."""

    @wraps(method)
    def patient(self: Any) -> Any:
        if getattr(_state, "waiting", False) or self.retrieved:
            return method(self)
        _state.waiting = True
        try:
            return wait_for(lambda: method(self), seconds, self.rewind)
        finally:
            _state.waiting = False

    return patient


def _say(text: str) -> None:
    print(f"dao-flows: {text}", file=sys.stderr, flush=True)
