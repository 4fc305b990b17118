"""Which hosts the response directory shows to be fenced. It is only read, and nobody's lock is taken."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from nvmefence.spool import files, names, response
from nvmefence.spool.directory import ARCHIVE
from nvmefence.spool.errors import DirectoryLost, Gone, ReadFailed, SpoolError
from nvmefence.spool.request import Action
from nvmefence.spool.response import RESPONSE_LIMIT, Response
from nvmefence.watcher import verdict
from nvmefence.watcher.verdict import Verdict

_ARCHIVED: Final = 1000
"""Archived responses, the newest, that are looked at."""
Follow = Callable[[int], None]
"""Has whatever happens in the directory open under this descriptor told from now on. Raises OSError."""
_Signature = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Said:
    """What one response says."""

    hosts: frozenset[str] = frozenset()
    """Names of the host that it shows to be fenced; empty: it shows no fence."""
    claimed: frozenset[str] = frozenset()
    """Names of the host for which it is a success of another kind, which the NNF node manager takes for a fence."""
    left_out: str = ""
    """Why a response that claims a fence does not count; empty: it counts, or claims none."""


class Fences(NamedTuple):
    """What the directory shows."""

    hosts: Mapping[str, str]
    """Fenced hosts, by every name that a response has for them, with the name of that response."""
    claimed: frozenset[str]
    """Hosts with a successful response that shows no fence."""
    left_out: Mapping[str, str]
    """Responses that claim a fence and do not count, and why."""


class Responses:
    """A directory of responses, looked at again and again. A response is read once, as it never changes."""

    def __init__(self, path: str, *, simulated: bool = False, follow: Follow | None = None) -> None:
        """`simulated`: fences of emulated drives count as well. `follow` has changes told."""
        self.path = path
        self._simulated = simulated
        self._follow = follow
        self._followed: tuple[int, int] | None = None
        self._known: dict[str, dict[_Signature, Said]] = {}

    def look(self) -> Fences:
        """Return what the responses that stand show. Raises SpoolError where that cannot be told for certain."""
        hosts: dict[str, str] = {}
        claimed: set[str] = set()
        left_out: dict[str, str] = {}
        with files.open_directory(self.path) as directory:
            self._have_followed(directory.fd)
            for name, said in self._read(directory, None).items():
                hosts.update(dict.fromkeys(said.hosts, name))
                claimed |= said.claimed
                if said.left_out:
                    left_out[name] = said.left_out
        return Fences(hosts, frozenset(claimed), left_out)

    def released(self) -> frozenset[str]:
        """Return the hosts of archived responses to fences: they were fenced once. Raises SpoolError."""
        try:
            with files.open_directory(f"{self.path}/{ARCHIVE}") as directory:
                archived = self._read(directory, _ARCHIVED).values()
        except DirectoryLost:
            return frozenset()
        return frozenset(host for said in archived for host in said.hosts)

    def _have_followed(self, fd: int) -> None:
        """Follow the directory, unless it is the one that is followed already. That it cannot be is no trouble."""
        found = os.fstat(fd)
        identity = found.st_dev, found.st_ino
        if self._follow is None or identity == self._followed:
            return
        self._followed = None
        try:
            self._follow(fd)
        except OSError:
            return
        self._followed = identity

    def _read(self, directory: files.Directory, newest: int | None) -> dict[str, Said]:
        """Return what each response says, by its name; what is not a response is passed over. Raises SpoolError."""
        there = []
        try:
            for name in os.listdir(directory.fd):
                if name.endswith(names.SUFFIX) and names.is_safe(name):
                    try:
                        found = os.stat(name, dir_fd=directory.fd, follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    there.append((found.st_mtime_ns, name, (found.st_dev, found.st_ino, found.st_size)))
        except OSError as error:
            raise SpoolError(f"cannot list {names.quoted(directory.path)}: {error.strerror}") from None
        there.sort(reverse=True)
        before = self._known.get(directory.path, {})
        known: dict[_Signature, Said] = {}
        said = {}
        for mtime, name, rest in there[:newest]:
            signature = (*rest, mtime)
            one = before.get(signature)
            if one is None:
                one = self._say(directory, name)
            if one is not None:
                known[signature] = said[name] = one
        self._known[directory.path] = known
        return said

    def _say(self, directory: files.Directory, name: str) -> Said | None:
        """Return what a response says; None: it is gone. Raises ReadFailed."""
        try:
            return judge(response.parse(files.read(directory, name, limit=RESPONSE_LIMIT).data), self._simulated)
        except Gone:
            return None
        except ReadFailed:
            raise
        except SpoolError:
            return Said()


def judge(answer: Response, simulated: bool) -> Said:
    """Return what a response says: it shows a fence if it is ours, and its evidence has the host cut everywhere."""
    if not answer.success:
        return Said()
    claimed = frozenset({answer.target_node})
    if answer.action_performed == Action.ON.value:
        return Said(claimed=claimed)
    made = verdict.explain(answer)
    ours = made.verdict is Verdict.FENCED or (made.verdict is Verdict.CLAIMED and made.evidence == "omitted")
    if not ours:
        why = "its evidence contradicts it" if made.verdict is Verdict.DOUBTFUL else "it has no evidence of ours"
        return Said(claimed=claimed, left_out=why)
    if not simulated and (made.simulated or (made.simulated is None and made.evidence == "evidence")):
        return Said(claimed=claimed, left_out="its drives were simulated")
    return Said(hosts=frozenset({answer.target_node, made.host} - {""}))
