"""A training in several processes, by torchrun, on one node or on several."""

from __future__ import annotations

import ctypes
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dao_flows.model.runtime.deadline import Stop

LOG = "torchrun.log"


def command(processes: int, nodes: int, launcher: Sequence[str], run: str) -> list[str]:
    """The call of torchrun on this node, or by the launcher on each, where they meet at a free port of this one.

    processes: on each node; launcher: its words, with `{nodes}` for their number; run: a name that no other run has.
    """
    torchrun = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
    if nodes == 1:
        return [*torchrun, "--standalone"]
    with socket.socket() as free:
        free.bind(("", 0))
        endpoint = f"{socket.gethostname()}:{free.getsockname()[1]}"
    meeting = ["--rdzv-backend=c10d", f"--rdzv-id={run}", f"--rdzv-endpoint={endpoint}"]
    return [*(word.format(nodes=nodes) for word in launcher), *torchrun, f"--nnodes={nodes}", *meeting]


def train(call: Sequence[str], argv: Sequence[str], folder: Path, stop: Stop) -> bool:
    """Train until the end; False if it was stopped before, the state then being saved in the run's folder.

    call: of torchrun; argv: of `dao_flows.model.train`. A signal that `stop` has seen reaches the processes, and the
    death of this one too. Raises TrainingError with what they complain of.
    """
    from dao_flows.model.training.config import TrainingError
    from dao_flows.model.training.state import STOPPED

    folder.mkdir(parents=True, exist_ok=True)
    (folder / STOPPED).unlink(missing_ok=True)
    with (folder / LOG).open("w") as lines:
        process = subprocess.Popen(
            # -- : torchrun takes options of ours for abbreviations of its own otherwise
            [*call, "-m", "--", "dao_flows.model.train", *argv],
            stdout=lines,
            stderr=subprocess.STDOUT,
            preexec_fn=_die_with_parent,
        )
        told = False
        while process.poll() is None:
            if stop.signal is not None and not told:
                process.terminate()  # torchrun hands it on to the processes, which save the state
                told = True
            with suppress(subprocess.TimeoutExpired):
                process.wait(1)
    if process.returncode == 0:
        return True
    if (folder / STOPPED).exists() or stop.signal is not None:
        return False
    said = [line for line in (folder / LOG).read_text(errors="replace").splitlines() if line.startswith("error: ")]
    raise TrainingError(said[-1][7:] if said else f"torchrun failed; what it said is in {folder / LOG}")


def _die_with_parent() -> None:
    """Ask Linux for a SIGTERM when the job's process dies: torchrun would train on without it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
