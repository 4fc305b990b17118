"""What is done to drives and processes while hosts are fenced, in the long run of the laboratory."""

from __future__ import annotations

import contextlib
import errno
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from tests.lab import bringup, faults, observer
from tests.lab.cuse import DETACH, READ, Impostor, Manner
from tests.lab.guest.watching import Agent, Place
from tests.lab.shape import Shape
from tests.lab.witness import Witness

SLOW_S: Final = 120.0
"""Seconds for a write to sysfs that may wait for a drive."""
_NO_RING: Final = "tests.lab.no_ring"


@dataclass
class Scene:
    """One round: what a fault is given."""

    rng: random.Random
    place: Place
    shape: Shape
    serial: str
    """The drive that is to suffer."""
    hosts: list[str]
    controllers: dict[str, dict[str, int]]
    """By host, by serial number."""
    witness: Witness
    agents: list[Agent] = field(default_factory=list)
    """At work."""
    killed: bool = False
    """Whether a process was killed that may have cut something and not put it on record."""
    interrupted: bool = False
    """Whether the drive may have gone away, or answered in part, in the middle of a cut."""
    unconfirmed: set[str] = field(default_factory=set)
    """Hosts with a fence that failed: it may have left commands without an answer."""
    untold: set[str] = field(default_factory=set)
    """Hosts of which a restore left something out because of that."""

    @property
    def drive(self) -> observer.Drive:
        """The drive as it is now."""
        return next(drive for drive in observer.drives() if drive.serial == self.serial)

    def start_watcher(self) -> str:
        """Start a watcher that talks to drives in one of the possible ways; return which."""
        way = self.rng.choice(["io_uring", "ioctl", "auto", "auto, no io_uring"])
        backend, _, denied = way.partition(", ")
        within = [*PYTHON, _NO_RING] if denied else []
        self.place.start(backend, "auto:0.5", WATCHER_DEADLINE_S, "--agents-may-restore", within=within)
        return way


PYTHON: Final = (sys.executable, "-m")
WATCHER_DEADLINE_S: Final = 10.0
Strike = Callable[[Scene], contextlib.AbstractContextManager[None]]


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong. Entering what `strike` returns does it, leaving it mends it."""

    name: str
    strike: Strike
    certain: bool = False
    """While it lasts, nobody can know that a host is cut: no success is true."""
    fits: str = ""
    """A regular expression which each failure's reason must have; {serial} is the drive. Empty: no failure fits."""
    timing: str = "any"
    """any; early (before it is asked); middle (after it was asked)."""
    hosts: int = 1
    """So many hosts at least."""
    short_timeout: bool = False
    """Some agents have less time than the fault lasts."""


@contextlib.contextmanager
def _nothing(_scene: Scene) -> Iterator[None]:
    yield


@contextlib.contextmanager
def _pulled(scene: Scene) -> Iterator[None]:
    scene.witness.excuse(scene.serial)  # the emulated drive attaches its virtual functions anew
    faults.pull(scene.drive.primary.address, SLOW_S)
    yield


@contextlib.contextmanager
def _pulled_and_back(scene: Scene) -> Iterator[None]:
    with _pulled(scene):
        time.sleep(scene.rng.uniform(0, 1))
        with contextlib.suppress(observer.NvmeError):  # a fence does something to the same controller; healed later
            bringup.heal(scene.shape, {})
        yield


@contextlib.contextmanager
def _unbound(scene: Scene) -> Iterator[None]:
    faults.unbind(scene.drive.primary.address, SLOW_S)
    yield


@contextlib.contextmanager
def _unbound_and_back(scene: Scene) -> Iterator[None]:
    address = scene.drive.primary.address
    faults.unbind(address, SLOW_S)
    time.sleep(scene.rng.uniform(0, 0.5))
    faults.bind(address, SLOW_S)
    yield


@contextlib.contextmanager
def _reset(scene: Scene) -> Iterator[None]:
    for _ in range(scene.rng.randint(1, 3)):
        with contextlib.suppress(OSError):  # it is being reset already
            faults.write(observer.SYSFS / scene.drive.primary.name / "reset_controller", "1", SLOW_S)
        time.sleep(scene.rng.uniform(0, 0.2))
    yield


@contextlib.contextmanager
def _functions_down_and_up(scene: Scene) -> Iterator[None]:
    scene.witness.excuse(scene.serial)
    drive = scene.drive
    folder = faults.PCI / "devices" / drive.primary.address
    faults.write(folder / "sriov_numvfs", "0", SLOW_S)
    time.sleep(scene.rng.uniform(0, 0.5))
    bringup.online_secondaries(drive, scene.shape.secondaries)
    yield


@contextlib.contextmanager
def _functions_offline_and_online(scene: Scene) -> Iterator[None]:
    """The secondary controllers of the hosts go offline by another hand, and come back."""
    with observer.Device(scene.drive.primary.path) as device:
        ids = [scene.controllers[host][scene.serial] for host in scene.hosts]
        for cntlid in ids:
            with contextlib.suppress(observer.NvmeError):
                device.offline(cntlid)
        time.sleep(scene.rng.uniform(0, 0.5))
        for cntlid in ids:
            with contextlib.suppress(observer.NvmeError):  # the fence brought it back meanwhile
                device.assign(cntlid)
                device.online(cntlid)
    yield


@contextlib.contextmanager
def _attached_by_a_stranger(scene: Scene) -> Iterator[None]:
    """Other software attaches to the hosts again and again while they are fenced."""
    scene.witness.excuse(scene.serial, scene.hosts)
    with observer.Device(scene.drive.primary.path) as device:
        for _ in range(scene.rng.randint(1, 12)):
            nsid = scene.rng.randint(1, scene.shape.namespaces)
            cntlid = scene.controllers[scene.rng.choice(scene.hosts)][scene.serial]
            with contextlib.suppress(observer.NvmeError):  # it is attached
                device.attach(nsid, [cntlid])
            time.sleep(scene.rng.uniform(0, 0.15))
    yield


@contextlib.contextmanager
def _watcher_killed(scene: Scene) -> Iterator[None]:
    scene.killed = True
    for _ in range(scene.rng.randint(1, 2)):
        scene.place.kill()
        time.sleep(scene.rng.uniform(0, 2))
        scene.start_watcher()
        time.sleep(scene.rng.uniform(0, 0.3))
    yield


@contextlib.contextmanager
def _watcher_stopped(scene: Scene) -> Iterator[None]:
    scene.place.send(signal.SIGSTOP)
    try:
        time.sleep(scene.rng.uniform(0.2, 8))
    finally:
        scene.place.send(signal.SIGCONT)
    yield


@contextlib.contextmanager
def _watcher_told_to_end(scene: Scene) -> Iterator[None]:
    assert scene.place.stop() == 0, "the watcher did not end well"
    scene.start_watcher()
    yield


@contextlib.contextmanager
def _agents_killed(scene: Scene) -> Iterator[None]:
    for agent in scene.agents:
        time.sleep(scene.rng.uniform(0, 0.5))
        agent.kill()
    yield


def _behaving(manner: Callable[[random.Random], Manner]) -> Strike:
    """Return a fault of a drive that is honest until it is struck."""

    @contextlib.contextmanager
    def strike(scene: Scene) -> Iterator[None]:
        with Impostor(scene.drive, scene.place.folder, manner(scene.rng)):
            yield

    return strike


def _changing(manner: Callable[[random.Random], Manner]) -> Strike:
    """Return a fault of a drive that changes its manners at random instants while hosts are fenced."""

    @contextlib.contextmanager
    def strike(scene: Scene) -> Iterator[None]:
        over = threading.Event()
        with Impostor(scene.drive, scene.place.folder) as impostor:

            def change() -> None:
                while not over.wait(scene.rng.uniform(0, 1)):
                    impostor.behave(manner(scene.rng) if scene.rng.random() < 0.5 else Manner())

            thread = threading.Thread(target=change, daemon=True)
            thread.start()
            try:
                yield
            finally:
                over.set()
                thread.join(30)

    return strike


def _refusal(rng: random.Random) -> Manner:
    status = rng.choice([0x4002, 0x0006, 0x0119, 0x4119, 0x0370, 0x011C, 0x0371])
    return Manner("refuse", (DETACH,), status=status)


def _unread(rng: random.Random) -> Manner:
    return Manner("refuse", (READ,), status=rng.choice([0x4002, 0x0006, 0x0370]))


def _failing(rng: random.Random) -> Manner:
    return Manner("error", (READ, DETACH), status=rng.choice([errno.EINTR, errno.EIO, errno.EAGAIN, errno.ENODEV]))


def _hung(rng: random.Random) -> Manner:
    """Return one that does what it was told when it is over: a detach, too."""
    return Manner("hung", rng.choice([(READ,), (DETACH,), (READ, DETACH)]))


def _late(rng: random.Random) -> Manner:
    return Manner("late", seconds=rng.choice([0.02, 0.1, 0.3]))


def _any(rng: random.Random) -> Manner:
    """Return any manner but one that detaches after the end of the fence."""
    lying = Manner("lie", (DETACH,))
    return rng.choice([_refusal(rng), _unread(rng), _failing(rng), _late(rng), lying, Manner("blank", (READ,))])


_SERIAL: Final = "{serial}"
_LATE: Final = r"expired|time was over|no (response|answer)|not answered|timeout|within|in time|was stopped|gave up"

FAULTS: Final[tuple[Fault, ...]] = (
    Fault("none", _nothing),
    Fault("drive pulled", _pulled, certain=True, fits=_SERIAL),
    Fault("drive pulled and back", _pulled_and_back, fits=_SERIAL, timing="middle"),
    Fault("drive unbound", _unbound, certain=True, fits=_SERIAL),
    Fault("drive unbound and bound", _unbound_and_back, fits=_SERIAL, timing="middle"),
    Fault("controller reset", _reset, fits=_SERIAL, timing="middle"),
    Fault("virtual functions down and up", _functions_down_and_up, fits=_SERIAL, timing="middle"),
    Fault("controllers offline and online", _functions_offline_and_online, fits=_SERIAL),
    Fault("attached by a stranger", _attached_by_a_stranger, fits=_SERIAL, timing="middle"),
    Fault("drive hangs", _behaving(_hung), certain=True, fits=_SERIAL, timing="early"),
    Fault("drive answers late", _behaving(_late), fits=_SERIAL, timing="early"),
    Fault("drive refuses", _behaving(_refusal), certain=True, fits=_SERIAL, timing="early"),
    Fault("drive cannot be read", _behaving(_unread), certain=True, fits=_SERIAL, timing="early"),
    Fault("ioctl fails", _behaving(_failing), certain=True, fits=_SERIAL, timing="early"),
    Fault(
        "drive lies", _behaving(lambda _rng: Manner("lie", (DETACH,))), certain=True, fits=_SERIAL, timing="early"
    ),
    Fault(
        "drive writes nothing", _behaving(lambda _rng: Manner("blank", (READ,))), certain=True, fits=_SERIAL,
        timing="early",
    ),
    Fault(
        "list applied in part", _behaving(lambda _rng: Manner("part", (DETACH,))), fits=_SERIAL, timing="early",
        hosts=2,
    ),
    Fault("drive changes its manners", _changing(_any), fits=_SERIAL, timing="early"),
    Fault("watcher killed", _watcher_killed, fits=_LATE),
    Fault("watcher stopped", _watcher_stopped, fits=_LATE, short_timeout=True),
    Fault("watcher told to end", _watcher_told_to_end, fits=_LATE),
    Fault("agent killed", _agents_killed, fits=_LATE, timing="middle"),
)  # fmt: skip


def by_name(names: list[str]) -> list[Fault]:
    """Return faults by their names, all for none. Raises KeyError."""
    known = {fault.name: fault for fault in FAULTS}
    return [known[name] for name in names] or list(FAULTS)
