"""FireWorks' rlaunch and qlaunch as a project's workers run them: `python -m dao_flows.launch.worker rlaunch ...`.

The arguments are FireWorks' own. What differs: a database that is away is waited for.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .launchpad import require_fireworks
from .patience import be_patient


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the two programs with the rest of the arguments."""
    name, *rest = sys.argv[1:] if arguments is None else arguments
    require_fireworks()
    from fireworks.scripts.qlaunch_run import qlaunch
    from fireworks.scripts.rlaunch_run import rlaunch

    be_patient()
    program = {"rlaunch": rlaunch, "qlaunch": qlaunch}[name]
    return int(program(rest) or 0)


if __name__ == "__main__":
    sys.exit(main())
