"""`hosts.toml`: which hosts there are, which controllers are theirs, and which drives are expected."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from nvmefence.errors import UnknownHostError, nearest
from nvmefence.inventory.drives import Drive, LocalController
from nvmefence.inventory.selectors import KINDS, ByController, ByVirtualFunction, DriveView, Refusal, Selector


@dataclass(frozen=True, slots=True)
class Host:
    """A host that can be fenced."""

    name: str
    selector: Selector
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Expected:
    """Which drives must be cut before a fence is confirmed. Exactly one of the first three is given."""

    count: int | None = None
    serials: tuple[str, ...] = ()
    nqns: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    """Shell patterns of serial number, NQN or model: drives that are none of ours, such as a boot drive."""


class Selection(NamedTuple):
    """The expected drives that are there, and what is wrong with the rest."""

    drives: list[Drive]
    missing: list[str]
    """What is missing, or too much, in words; not empty means that no fence can be confirmed."""


@dataclass(frozen=True, slots=True)
class HostMap:
    """A map that was read and found free of contradictions."""

    path: str
    hosts: Mapping[str, Host]
    expected: Expected
    own: str | tuple[int, ...] = "visible"
    """This machine's own controllers: "visible" (all that its kernel drives), "physical" (those of them that are
    no virtual functions), or their ids."""
    allow_controller_zero: bool = False
    exact: Mapping[str, str] = field(default_factory=dict)
    """Host by every name and alias, in lower case."""
    short: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Hosts by the part of a name or alias before its first dot."""

    def find(self, name: str) -> Host:
        """Return the host called `name`: by name or alias, else by short or fully qualified name, any case.

        Raises UnknownHostError, which names the nearest known host, or all hosts that a short name could mean.
        """
        wanted = name.strip().lower().rstrip(".")
        first, _, domain = wanted.partition(".")
        known = self.exact.get(wanted) or (self.exact.get(first) if domain else None)
        if known:
            return self.hosts[known]
        candidates = () if domain else self.short.get(wanted, ())
        if len(candidates) == 1:
            return self.hosts[candidates[0]]
        if candidates:
            raise UnknownHostError(
                f"{name!r} could be any of {', '.join(candidates)} in {self.path}", "use the full name"
            )
        hint = nearest(wanted, sorted(self.exact))
        raise UnknownHostError(
            f"host {name!r} is not in {self.path}{hint}", "list the known hosts with: nvmefence hosts show"
        )

    def own_controllers(self, drive: Drive) -> tuple[LocalController, ...]:
        """Return this machine's own controllers on a drive, best to send through first.

        Physical functions come before virtual ones: only a primary controller answers CNS 15h.
        """
        own = drive.controllers
        if self.own == "physical":
            own = tuple(c for c in own if not c.virtual_function)
        elif not isinstance(self.own, str):
            own = tuple(c for c in own if c.cntlid in self.own)
        return tuple(sorted(own, key=lambda c: (c.state != "live", c.virtual_function, c.cntlid)))

    def needs_secondaries(self) -> bool:
        """Whether any host is named by virtual function, so that CNS 15h must be read."""
        return any(host.selector.needs_secondaries for host in self.hosts.values())

    def needs_controllers(self) -> bool:
        """Whether any host is named by controller id, so that CNS 13h must be read."""
        return not all(host.selector.needs_secondaries for host in self.hosts.values())

    def resolve(self, host: Host, view: DriveView) -> frozenset[int]:
        """Return the controller ids of `host` on one drive, from what was read there just now.

        Raises Refusal for anything doubtful: no id, an id that the drive does not have, controller zero, our
        own controllers, the Rabbit's functions, a controller that another host of the map has too.
        """
        ids = host.selector.resolve(view)
        if 0 in ids and not self.allow_controller_zero:
            raise Refusal(
                "controller id 0 is refused",
                "if the host really owns controller 0, set allow_controller_zero = true under [drives]",
            )
        own = ids & self._own_ids(view)
        if own:
            raise Refusal(
                f"controller {min(own)} is this machine's own",
                "correct the map; if hosts' controllers are visible here on purpose, set own under [drives]",
            )
        # Different virtual functions, which the map's check made sure of, are different controllers on any drive.
        same = ByVirtualFunction if isinstance(host.selector, ByVirtualFunction) else None
        for owners in [self._owners(view, kind) for kind in KINDS if kind is not same]:
            for cntlid in sorted(ids.intersection(owners)):
                others = [name for name in owners[cntlid] if name != host.name]
                if others:
                    raise Refusal(
                        f"controller {cntlid} belongs to {host.name} and {others[0]} alike",
                        f"correct one of them in {self.path}",
                    )
        return ids

    def _own_ids(self, view: DriveView) -> frozenset[int]:
        known: frozenset[int] | None = view.derived.get("own")
        if known is None:
            known = view.derived["own"] = frozenset(c.cntlid for c in self.own_controllers(view.drive))
        return known

    def _owners(self, view: DriveView, kind: type[Selector]) -> Mapping[int, Sequence[str]]:
        """Return, by controller id, the hosts named by this kind of selector which it belongs to on the drive."""
        known: Mapping[int, Sequence[str]] | None = view.derived.get(kind)
        if known is not None:
            return known
        owners: dict[int, list[str]] = {}
        for host in self.hosts.values():
            if not isinstance(host.selector, kind):
                continue
            try:
                ids: Iterable[int] = host.selector.resolve(view)
            except Refusal:
                # What the map says of a host holds even where that host itself cannot be fenced.
                ids = host.selector.ids(view.drive) if isinstance(host.selector, ByController) else ()
            for cntlid in ids:
                owners.setdefault(cntlid, []).append(host.name)
        view.derived[kind] = owners
        return owners

    def select(self, found: Sequence[Drive]) -> Selection:
        """Pick the expected drives out of what was found, and say what is missing or too much."""
        drives = [drive for drive in found if not _matches(drive, self.expected.ignore)]
        if self.expected.count is not None:
            missing = []
            if len(drives) < self.expected.count:
                missing.append(f"{self.expected.count - len(drives)} of {self.expected.count} drives missing")
            elif len(drives) > self.expected.count:
                listed = ", ".join(drive.serial for drive in drives)
                missing.append(
                    f"{len(drives)} drives found, {self.expected.count} expected ({listed}); "
                    f"name those that are not shared under ignore in [drives]"
                )
            return Selection(drives, missing)
        by_serial = bool(self.expected.serials)
        names = self.expected.serials or self.expected.nqns
        chosen: list[Drive] = []
        missing = []
        for name in names:
            matching = [drive for drive in drives if name == (drive.serial if by_serial else drive.nqn)]
            chosen.extend(matching)
            if not matching:
                missing.append(f"drive {name} missing")
            elif len(matching) > 1:
                missing.append(f"{len(matching)} drives call themselves {name}")
        return Selection(chosen, missing)


def _matches(drive: Drive, patterns: Sequence[str]) -> bool:
    names = (drive.serial, drive.nqn, drive.model)
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns for name in names)
