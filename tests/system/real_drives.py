"""The command on simulated drives that count as real ones: `python -m tests.system.real_drives WORDS`.

What is done after a fence is not done for simulated drives, and its programs lie where the system has them. Here
they lie in $TEST_PROGRAMS, and dlm_controld's socket has the name $TEST_DLM_SOCKET. With $TEST_FRONT work is done
behind a front process, as with real drives.
"""

from __future__ import annotations

import functools
import os
import sys
from dataclasses import replace
from types import SimpleNamespace

from nvmefence import site
from nvmefence.after import actions
from nvmefence.cli import front, main
from nvmefence.nvme import simulation
from nvmefence.site import Site


def pretend() -> None:
    """Have simulated drives called real, and programs found elsewhere."""
    simulated = site._simulated

    def real(path: str) -> Site:
        return replace(simulated(path), simulated=False)

    site._simulated = real
    simulation.SimulatedTransport.backend = property(lambda _self: "emulated")  # type: ignore[method-assign,assignment]
    options = functools.partial(
        actions.Options,
        path=f"{os.environ['TEST_PROGRAMS']}:/usr/bin:/bin",
        dlm_socket=os.environ.get("TEST_DLM_SOCKET", "nobody"),
    )
    actions.Options = options  # type: ignore[misc,assignment]
    if os.environ.get("TEST_FRONT"):
        both = SimpleNamespace(finish=front.run, run=front.run)
        main.front = both  # type: ignore[assignment,attr-defined]


if __name__ == "__main__":
    pretend()
    sys.exit(main.main())
