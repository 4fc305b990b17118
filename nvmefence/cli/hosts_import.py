"""`nvmefence hosts import`: the host map from the resources of a Near Node Flash system."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Sequence
from typing import Any, Final

from nvmefence.cli.check import COLOURS
from nvmefence.cli.text import Cell, Screen, plain
from nvmefence.errors import ConfigError, Exit, FileError
from nvmefence.fencing import preflight
from nvmefence.fencing.preflight import Finding, Level
from nvmefence.inventory import hostfile
from nvmefence.nnf import documents
from nvmefence.nnf.layout import Layout, layout
from nvmefence.settings import Settings
from nvmefence.site import open_site
from nvmefence.tomlfile import parse_toml

_STANDARD_INPUT: Final = "-"
_MODE: Final = 0o644


def import_nnf(arguments: argparse.Namespace, settings: Settings, screen: Screen) -> int:
    """Print or write the host map that the resources give, or refuse, and say why."""
    resources = [one for source in _sources(arguments.nnf) for one in documents.read(*source)]
    found = layout(resources, arguments.rabbit)
    text = as_map(found, arguments.drives)
    findings: list[Finding] = []
    if arguments.check:
        findings, text = _checked(text, settings, screen)
    refused = [finding for finding in findings if finding.level is Level.FAIL]
    code = Exit.CHECK_FAILED if refused else Exit.OK
    written = ""
    if arguments.output and not refused:
        _write(arguments.output, text.encode(), arguments.force)
        written = arguments.output
    for remark in found.unsaid:
        screen.note(remark)
    if arguments.json:
        screen.raw(json.dumps(_document(found, findings, text, written, code, bool(settings.simulate)), indent=2))
        return code
    if refused:
        _print_refusal(findings, screen)
    elif written:
        screen.line(f"{len(found.computes)} hosts of {found.rabbit} written to {written}", "green")
        screen.line(f"next: nvmefence check{'' if settings.hosts == written else f' --hosts {written}'}")
    else:
        screen.raw(text)
    return code


def as_map(found: Layout, drives: int | None) -> str:
    """Return the host map as text that its parser takes.

    `drives` is how many a person says there are; None: nobody does. Raises FileError where nothing says so.
    """
    lines = [f"# The host map of {found.rabbit}, made by nvmefence hosts import from"]
    lines += [f"#   {source}" for source in found.sources]
    lines += [
        "# Slot k is virtual function k + 2 on every drive; nvmefence check looks whether it is.",
        "version = 1",
    ]
    lines += ["", "[drives]", *_drives(found, drives)]
    for compute in found.computes:
        name = json.dumps(compute.name) if "." in compute.name else compute.name
        lines += ["", f"# {compute.where}", f"[hosts.{name}]", f"slot = {compute.slot}"]
    return "".join(f"{plain(line)}\n" for line in lines)


def _drives(found: Layout, drives: int | None) -> list[str]:
    named = found.drives
    if drives is not None:
        return ["# the number is from the command line (--drives)", f"count = {drives}"]
    if named is None or not (named.serials or named.unnamed):
        raise FileError(
            f"nothing says which drives {found.rabbit} has",
            f"give its NnfNode too (kubectl get nnfnode -n {found.rabbit} nnf-nlc -o json), or --drives N",
        )
    if named.unnamed:
        listed = ", ".join(named.unnamed)
        raise FileError(
            f"{len(named.unnamed)} of {len(named.serials) + len(named.unnamed)} drives of {found.rabbit} have no "
            f"serial number: {listed}",
            "a drive that the map leaves out is not cut. Put it in, or say with --drives N how many must be there",
        )
    listed = ", ".join(json.dumps(serial) for serial in named.serials)
    return ["# status.drives[].serialNumber", f"serials = [{listed}]"]


def _sources(names: Sequence[str]) -> list[tuple[str, str]]:
    """Return the files' texts and names. Raises FileError."""
    if names.count(_STANDARD_INPUT) > 1:
        raise FileError("standard input (-) can be read once only", "give it once")
    return [_source(name) for name in names]


def _source(name: str) -> tuple[str, str]:
    shown = "standard input" if name == _STANDARD_INPUT else name
    try:
        if name == _STANDARD_INPUT:
            data = sys.stdin.buffer.read(documents.LIMIT + 1)
        else:
            with open(name, "rb") as file:
                data = file.read(documents.LIMIT + 1)
    except (OSError, ValueError) as error:
        raise FileError(f"cannot read {shown}: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > documents.LIMIT:
        raise FileError(f"{shown} has more than {documents.LIMIT} bytes")
    try:
        return data.decode("utf-8"), shown
    except UnicodeDecodeError as error:
        raise FileError(f"{shown}: not UTF-8 at byte {error.start}") from None


def _checked(text: str, settings: Settings, screen: Screen) -> tuple[list[Finding], str]:
    """Ask the live drives whether the map holds for them; return what was found, and the map that says so."""
    try:
        hostmap = hostfile.parse(parse_toml(text.encode(), "the map"), "the map")
    except ConfigError as error:
        raise FileError(error.what, error.advice) from None
    site = open_site(settings)
    try:
        found = site.discover()
        run = preflight.check(site.transport, hostmap, found, settings.quiesce, settings.deadline, screen.progress)
        findings, every = asyncio.run(run)
    finally:
        site.transport.close()
        screen.clear()
    known = {facts.drive.serial for facts in every}
    findings += [
        Finding(Level.NOTE, drive.serial, "is here, and not among the drives of the map", "")
        for drive in found
        if drive.serial not in known
    ]
    mark = "SIMULATED: " if site.simulated else ""
    remark = f"# {mark}Checked on {len(every)} live drives: every slot is the virtual function that it should be.\n"
    return findings, text.replace("version = 1\n", f"{remark}version = 1\n", 1)


def _print_refusal(findings: Sequence[Finding], screen: Screen) -> None:
    screen.table(
        ["", "what", "finding"],
        [[Cell(f.level.value, COLOURS[f.level]), f.subject, f.text] for f in findings],
    )
    refused = [finding for finding in findings if finding.level is Level.FAIL]
    for finding in refused:
        if finding.advice:
            screen.line(f"{finding.subject}: {finding.text}: {finding.advice}")
    screen.error(f"the drives contradict the map in {len(refused)} points, so it is not given out", "see above")


def _document(
    found: Layout, findings: Sequence[Finding], text: str, written: str, code: int, simulated: bool
) -> dict[str, Any]:
    return {
        "exit": int(code),
        "simulated": simulated,
        "rabbit": found.rabbit,
        "sources": found.sources,
        "serials": None if found.drives is None else found.drives.serials,
        "hosts": {one.name: {"slot": one.slot, "from": one.where} for one in found.computes},
        "findings": [finding.to_json() for finding in findings],
        "written": written or None,
        "map": None if code else text,
    }


def _write(path: str, data: bytes, force: bool) -> None:
    """Write a file whole or not at all; over one that is there only with `force`. Raises FileError."""
    temporary = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.{os.urandom(6).hex()}")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, _MODE)
        try:
            with open(fd, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(fd)
            if force:
                os.replace(temporary, path)
            else:
                os.link(temporary, path)  # which, unlike a rename, never takes the place of another
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
        directory = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except FileExistsError:
        raise FileError(
            f"{path} is there already; it was left as it is",
            "compare first: --output OTHER; or replace it: --force",
        ) from None
    except (OSError, ValueError) as error:
        raise FileError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from None
