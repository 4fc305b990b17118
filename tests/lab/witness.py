"""Reads the drives without a pause, by the observer's own ioctls, and holds every success against what it sees.

From the moment a success is known until the host is given its storage back, no controller of that host may be
attached to anything, in any read that was begun after that moment.
"""

from __future__ import annotations

import json
import os
import stat
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab import observer

PAUSE_S = 0.03
"""Seconds between two looks: the processor is for the others too."""


@dataclass
class Claim:
    """Somebody said that a host is cut."""

    host: str
    source: str
    since: float
    """Reads that were begun later must agree (CLOCK_MONOTONIC)."""
    excused: set[str]
    """Drives that attached the host again by themselves, or by somebody's hand, while it was being fenced."""
    reads: dict[str, int] = field(default_factory=dict)
    """How often each drive was read and agreed."""


class Witness:
    """Looks in a thread of its own, from entering to leaving."""

    def __init__(self, responses: Path, controllers: dict[str, dict[str, int]], nodes: Path) -> None:
        """`controllers`: by host, by serial number. `nodes`: a directory for device nodes of our own."""
        self._responses = responses
        self._ids = controllers
        self._nodes = nodes
        self._lock = threading.Lock()
        self._devices: dict[str, tuple[str, observer.Device]] = {}
        self._answers: dict[str, bytes] = {}
        self._told: set[tuple[str, str]] = set()
        self._excuses: dict[str, set[str]] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="witness", daemon=True)
        self._looks = 0
        self.claims: dict[str, Claim] = {}
        self.false: list[str] = []
        """Successes that were not true, in words."""
        self.changed: list[str] = []
        """Answers that were there and became others, or were in parts."""
        self.successes = 0
        self.reads = 0
        """Reads of a drive that were held against a claim."""
        self.trouble = ""
        """Why the witness itself gave up."""

    def __enter__(self) -> Witness:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(60)

    # What the campaign says

    def asked(self, host: str) -> None:
        """A fence of the host is asked for now: from here on excuses count anew."""
        with self._lock:
            self._excuses[host] = set()

    def excuse(self, serial: str, hosts: Iterable[str] | None = None) -> None:
        """What is under way or was said already says nothing about this drive: it attaches hosts again.

        `hosts`: only these; None: all.
        """
        with self._lock:
            for host in self._ids if hosts is None else hosts:
                self._excuses.setdefault(host, set()).add(serial)
                if host in self.claims:
                    self.claims[host].excused.add(serial)

    def claim(self, host: str, source: str) -> None:
        """Somebody says now that the host is cut."""
        with self._lock:
            excused = set(self._excuses.get(host, ()))
            self.claims[host] = Claim(host, source, time.monotonic(), excused)
            self.successes += 1

    def release(self, hosts: Iterable[str]) -> None:
        """These hosts are about to get their storage back."""
        with self._lock:
            for host in hosts:
                self.claims.pop(host, None)

    def resume(self, claim: Claim) -> None:
        """The host did not get its storage back after all: what was said of it holds on."""
        with self._lock:
            self.claims.setdefault(claim.host, claim)

    def answer(self, name: str) -> bytes | None:
        """Return a response as it was first seen."""
        return self._answers.get(name)

    def settled(self, looks: int = 2, seconds: float = 60) -> None:
        """Wait until so many looks were begun and ended from now on. Raises TimeoutError."""
        until = time.monotonic() + seconds
        wanted = self._looks + looks + 1
        while self._looks < wanted:
            if self.trouble or time.monotonic() > until:
                raise TimeoutError(f"the witness does not look: {self.trouble or 'it is stuck'}")
            time.sleep(PAUSE_S)

    # What it does

    def _run(self) -> None:
        try:
            while not self._over.is_set():
                self._responses_now()
                for serial in self._serials():
                    self._look(serial)
                self._looks += 1
                time.sleep(PAUSE_S)
        except BaseException as error:  # the campaign says it
            self.trouble = f"{type(error).__name__}: {error}"

    def _responses_now(self) -> None:
        for name in sorted(os.listdir(self._responses)):
            if name.startswith(".") or not name.endswith(".json"):
                continue
            try:
                data = (self._responses / name).read_bytes()
            except FileNotFoundError:  # archived in this moment
                continue
            known = self._answers.setdefault(name, data)
            if known != data:
                self._answers[name] = data
                self.changed.append(f"{name} was {known[:200]!r} and is {data[:200]!r}")
            elif known is data:
                self._new_answer(name, data)

    def _new_answer(self, name: str, data: bytes) -> None:
        try:
            document = json.loads(data)
        except ValueError:
            self.changed.append(f"a part of {name} was visible: {data[:200]!r}")
            return
        if document["success"] is True and document["action_performed"] != "on":
            self.claim(document["target_node"], f"response {name}")

    def _serials(self) -> list[str]:
        """Open what is there; return the drives that can be read."""
        there = {drive.serial: drive.primary for drive in observer.drives()}
        for serial in self._devices.keys() - there.keys():
            self._drop(serial)
        for serial, primary in there.items():
            try:
                number = (observer.SYSFS / primary.name / "dev").read_text()
                key = f"{primary.name} {number}"
                known = self._devices.get(serial)
                if primary.function == 0 and primary.state == "live" and (known is None or known[0] != key):
                    self._drop(serial)
                    self._devices[serial] = (key, self._open(serial, number))
            except OSError:  # it goes away, or comes
                continue
        return sorted(self._devices)

    def _open(self, serial: str, number: str) -> observer.Device:
        """Open by a node of our own, so that nothing that stands before the drive is asked."""
        major, minor = map(int, number.split(":"))
        node = self._nodes / f"witness-{serial}"
        node.unlink(missing_ok=True)
        os.mknod(node, stat.S_IFCHR | 0o600, os.makedev(major, minor))
        return observer.Device(node)

    def _drop(self, serial: str) -> None:
        if serial in self._devices:
            self._devices.pop(serial)[1].close()

    def _look(self, serial: str) -> None:
        began = time.monotonic()
        try:
            seen = self._devices[serial][1].attachments()
        except OSError:  # pulled, or being reset
            self._drop(serial)
            return
        with self._lock:
            for claim in self.claims.values():
                if claim.since < began and serial not in claim.excused:
                    self._hold(claim, serial, seen)

    def _hold(self, claim: Claim, serial: str, seen: dict[int, frozenset[int]]) -> None:
        cntlid = self._ids[claim.host][serial]
        attached = [nsid for nsid, ids in seen.items() if cntlid in ids]
        self.reads += 1
        claim.reads[serial] = claim.reads.get(serial, 0) + (not attached)
        if attached and (claim.source, serial) not in self._told:
            self._told.add((claim.source, serial))
            self.false.append(
                f"{claim.source} said that {claim.host} is cut; {serial} has it on namespaces {attached}"
            )
