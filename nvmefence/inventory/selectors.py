"""Ways of naming a host's controllers, and how each resolves on one drive to controller ids read live."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, get_args

from nvmefence.inventory.drives import Drive
from nvmefence.nvme.structures import SecondaryController

NNF_FIRST_COMPUTE_VF: Final = 2
"""Compute slot k owns virtual function k + 2; the Rabbit itself owns function 0 and virtual function 1."""
NNF_SLOTS: Final = 16
NNF_RABBIT_VFS: Final = frozenset({1})


class Refusal(Exception):
    """A host's controllers cannot be named on a drive, or must not be cut there."""

    def __init__(self, reason: str, advice: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.advice = advice


@dataclass(frozen=True, slots=True)
class DriveView:
    """What was read from one drive just now, to resolve selectors against."""

    drive: Drive
    subsystem: Sequence[int] | None
    """Controller ids of the subsystem (CNS 13h); None when not asked for or not answered."""
    secondaries: Sequence[SecondaryController] | None
    """Secondary controllers (CNS 15h), likewise."""
    derived: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)
    """What the host map worked out from it; kept so that many hosts cost what one does."""


@dataclass(frozen=True, slots=True)
class ByController:
    """Explicit controller ids."""

    everywhere: tuple[int, ...] = ()
    """On every drive that `per_drive` does not name."""
    per_drive: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """By serial number or NQN."""

    needs_secondaries = False

    def ids(self, drive: Drive) -> tuple[int, ...]:
        """Return the ids on `drive`, empty when the map says nothing about it."""
        for name in (drive.serial, drive.nqn):
            if name in self.per_drive:
                return self.per_drive[name]
        return self.everywhere

    def resolve(self, view: DriveView) -> frozenset[int]:
        """Return the ids, each known to exist on the drive. Raises Refusal."""
        ids = self.ids(view.drive)
        if not ids:
            raise Refusal(
                "the map names no controller for this drive",
                f'add "{view.drive.serial}" to the controllers of the host, or remove the drive from the map',
            )
        if view.subsystem is None and not view.secondaries:
            raise Refusal("the drive's controllers could not be listed (CNS 13h)")
        known = {*(view.subsystem or ()), *(entry.cntlid for entry in view.secondaries or ())}
        unknown = sorted(set(ids) - known)
        if unknown:
            raise Refusal(
                f"controller {_join(unknown)} does not exist on this drive (it has {_join(sorted(known))})",
                "was the drive replaced? compare the map with: nvmefence hosts discover",
            )
        return frozenset(ids)

    def words(self) -> str:
        """Describe the selector in a few words."""
        parts = [f"controller {_join(self.everywhere)}"] if self.everywhere else []
        if self.per_drive:
            parts.append(f"controllers by drive ({len(self.per_drive)})")
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class ByVirtualFunction:
    """SR-IOV virtual function numbers, found by position in the Secondary Controller List."""

    vfs: tuple[int, ...]
    slot: int | None = None
    """The NNF compute slot that the map named, if it did."""

    needs_secondaries = True

    def resolve(self, view: DriveView) -> frozenset[int]:
        """Return the ids of the secondary controllers whose position and VFN agree. Raises Refusal."""
        if view.secondaries is None:
            raise Refusal(
                "the Secondary Controller List (CNS 15h) could not be read through our controller",
                "name the controllers by id (controllers = ...), or give nvmefence the physical function",
            )
        if not view.secondaries:
            raise Refusal(
                "our controller has no secondary controllers: it is not the drive's primary controller",
                "name the controllers by id (controllers = ...), or give nvmefence the physical function",
            )
        ids = set()
        for vf in self.vfs:
            if not 1 <= vf <= len(view.secondaries):
                count = len(view.secondaries)
                raise Refusal(f"virtual function {vf} does not exist on this drive (it has {count})")
            entry = view.secondaries[vf - 1]
            if entry.vf != vf:
                raise Refusal(
                    f"entry {vf} of the Secondary Controller List says virtual function {entry.vf}",
                    "the drive numbers its functions in a way of its own: name the controllers by id",
                )
            ids.add(entry.cntlid)
        return frozenset(ids)

    def words(self) -> str:
        """Describe the selector in a few words."""
        if self.slot is not None:
            return f"slot {self.slot} (VF {_join(self.vfs)})"
        return f"VF {_join(self.vfs)}"


Selector = ByController | ByVirtualFunction
KINDS: Final[tuple[type[Selector], ...]] = get_args(Selector)
"""All of them: a controller that hosts named in different ways share is looked for among all."""


def _join(numbers: Sequence[int]) -> str:
    return ", ".join(str(number) for number in numbers) or "none"
