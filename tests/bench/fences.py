"""The fences of a whole Rabbit: boots one guest, has it measure, adds what only this side knows."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from tests.bench import guests, native
from tests.bench.figures import Run
from tests.lab import boot
from tests.lab.shape import SHAPES, Shape

LIMIT = 420
"""Seconds for all measurements; with the boot the whole is below eight minutes."""


def measure(options: argparse.Namespace, results: Path) -> Run:
    """Measure; a profile, if asked for, goes to `results`. Raises LabError and ShapeError."""
    shape = dataclasses.replace(SHAPES["rabbit"], drives=options.drives, namespaces=options.namespaces)
    arguments = [
        f"--{name.replace('_', '-')}={getattr(options, name)}"
        for name in ("rounds", "command_rounds", "ioctl_rounds", "loop_rounds")
    ]
    arguments += ["--profile"] if options.profile else []
    result = guests.run(shape, "tests.bench.guest", arguments, LIMIT)
    if options.profile:
        (results / "bench-profile.txt").write_text((result.folder / "profile.txt").read_text())
    return _completed(shape, result)


def _completed(shape: Shape, result: boot.Result) -> Run:
    """Add what only this side knows to the guest's figures."""
    measured = Run.from_json(json.loads((result.folder / "bench.json").read_text()))
    where = {
        "Rabbit": shape.describe(),
        **measured.where,
        "QEMU": guests.qemu(),
        "whole run": f"{result.seconds:.0f} s",
    }
    here = {"the same outside the guest, on the machine that emulates it": native.code_of_a_fence()}
    return dataclasses.replace(measured, where=where, started={**measured.started, **here})
