"""One drive: opened, identified and read, with every way this can fail."""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import pytest

from nvmefence.fencing.session import DriveProblem, DriveSession
from nvmefence.inventory import hostfile
from nvmefence.inventory.drives import Drive, LocalController
from nvmefence.inventory.hostmap import HostMap
from nvmefence.inventory.selectors import Refusal
from nvmefence.nvme.emulated import EmulatedSubsystem, EmulatedTransport, Fault, Namespace, fail, hang, lie
from nvmefence.nvme.transport import Command
from tests.property.virtual_time import run

_T = TypeVar("_T")
NQN = "nqn.2014-08.org.example:1"


def hostmap(host: dict[str, Any] | None = None, **drives: Any) -> HostMap:
    document = {"version": 1, "drives": drives or {"count": 1}, "hosts": {"c1": host or {"controllers": 3}}}
    return hostfile.parse(document, "hosts.toml")


def subsystem(namespaces: Sequence[int] = (1, 2), **options: Any) -> EmulatedSubsystem:
    shape = {"controllers": [0, 3, 4]} | options
    return EmulatedSubsystem(NQN, "S1", namespaces=[Namespace(n) for n in namespaces], **shape)


def seen(*paths: tuple[str, int], nqn: str = NQN, serial: str = "S1") -> Drive:
    found = [LocalController(p[5:], p, cntlid, "", "live", False) for p, cntlid in paths or [("/dev/nvme0", 0)]]
    return Drive(nqn, serial, "M", "1", tuple(found))


class Doors(EmulatedTransport):
    """A transport whose `open` fails by path: an errno for the first so many tries."""

    def __init__(
        self, devices: dict[str, tuple[EmulatedSubsystem, int]], closed: dict[str, tuple[int, int]]
    ) -> None:
        super().__init__(devices)
        self.closed = closed

    def open(self, path: str) -> int:
        number, times = self.closed.get(path, (0, 0))
        if times:
            self.closed[path] = (number, times - 1)
            raise OSError(number, os.strerror(number), path)
        return super().open(path)


def with_session(
    use: Callable[[DriveSession], Awaitable[_T]],
    transport: EmulatedTransport,
    drive: Drive | None = None,
    map_: HostMap | None = None,
    until: float = 1005.0,
) -> _T:
    async def main() -> _T:
        session = DriveSession(transport, drive or seen(), map_ or hostmap(), until)
        try:
            return await use(session)
        finally:
            session.close()

    return run(main())


async def opened(session: DriveSession) -> str:
    await session.open()
    assert session.local is not None
    return session.local.path


def problem(
    use: Callable[[DriveSession], Awaitable[Any]], transport: EmulatedTransport, *arguments: Any, **options: Any
) -> DriveProblem:
    with pytest.raises(DriveProblem) as raised:
        with_session(use, transport, *arguments, **options)
    return raised.value


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EBUSY, errno.EINTR])
def test_controller_that_is_not_live_yet_is_tried_again(number: int) -> None:
    transport = Doors({"/dev/nvme0": (subsystem(), 0)}, {"/dev/nvme0": (number, 40)})
    assert with_session(opened, transport) == "/dev/nvme0"


def test_controller_that_is_never_live_is_given_up_at_the_deadline() -> None:
    transport = Doors({"/dev/nvme0": (subsystem(), 0)}, {"/dev/nvme0": (errno.EAGAIN, 10**9)})
    assert problem(opened, transport).reason == "cannot open /dev/nvme0: the controller is not live"
    tries = 10**9 - transport.closed["/dev/nvme0"][1]
    assert 90 <= tries <= 101, "every 50 ms for 5 s"


@pytest.mark.parametrize(
    ("number", "reason", "advice"),
    [(errno.ENOENT, "ENOENT", ""), (errno.EACCES, "EACCES", "run as root"), (errno.ENODEV, "ENODEV", "removed")],
)
def test_controller_that_cannot_be_opened_is_given_up_at_once(number: int, reason: str, advice: str) -> None:
    transport = Doors({"/dev/nvme0": (subsystem(), 0)}, {"/dev/nvme0": (number, 10**9)})
    found = problem(opened, transport)
    assert reason in found.reason
    assert advice in found.advice
    assert transport.closed["/dev/nvme0"][1] == 10**9 - 1


def test_second_own_controller_stands_in_for_the_first() -> None:
    drive = subsystem()
    transport = Doors({"/dev/nvme0": (drive, 0), "/dev/nvme4": (drive, 4)}, {"/dev/nvme0": (errno.ENOENT, 1)})
    assert with_session(opened, transport, seen(("/dev/nvme0", 0), ("/dev/nvme4", 4))) == "/dev/nvme4"


def test_drive_without_a_controller_of_ours_is_a_problem() -> None:
    transport = EmulatedTransport({"/dev/nvme0": (subsystem(), 0)})
    assert "check own" in problem(opened, transport, map_=hostmap(count=1, own=[9])).advice


async def looked(session: DriveSession) -> DriveSession:
    await session.open()
    await session.look()
    return session


@pytest.mark.parametrize(
    "drive",
    [seen(serial="S2"), seen(nqn="nqn.other"), seen(("/dev/nvme0", 3)), seen(serial="S1 x")],
    ids=["serial", "nqn", "controller", "longer serial"],
)
def test_other_identity_than_sysfs_said_is_a_problem(drive: Drive) -> None:
    transport = EmulatedTransport({"/dev/nvme0": (subsystem(), 0)})
    assert "is another drive than a moment ago" in problem(looked, transport, drive).reason


def test_drive_without_an_nqn_is_known_by_its_serial_number() -> None:
    nameless = EmulatedSubsystem("", "S1", controllers=[0, 3])
    transport = EmulatedTransport({"/dev/nvme0": (nameless, 0)})
    assert with_session(looked, transport, seen(nqn="nqn.made-up-by-the-kernel")).view is not None


@pytest.mark.parametrize(
    ("host", "asked", "spared"),
    [({"controllers": 3}, 0x13, 0x15), ({"vf": 1}, 0x15, 0x13)],
)
def test_only_what_the_map_needs_is_asked(host: dict[str, Any], asked: int, spared: int) -> None:
    transport = EmulatedTransport({"/dev/nvme0": (subsystem(controllers=[0], secondaries=[3, 4]), 0)})
    with_session(looked, transport, map_=hostmap(host))
    questions = {sent.command.cdw10 & 0xFF for sent in transport.log}
    assert asked in questions
    assert spared not in questions


@pytest.mark.parametrize("cns", [0x01, 0x10])
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (hang(), "no answer"),
        (lie(), "reported success and wrote nothing"),
        (fail(0x4006), "Internal Error (006h)"),
        (fail(-errno.ENODEV), "ENODEV"),
    ],
)
def test_identity_or_namespace_list_without_an_answer_is_a_problem(cns: int, fault: Fault, reason: str) -> None:
    transport = EmulatedTransport({"/dev/nvme0": (subsystem(), 0)})
    transport.faults["/dev/nvme0"] = lambda _path, command: fault if command.cdw10 & 0xFF == cns else None
    assert reason in problem(looked, transport).reason


def test_host_is_not_resolved_before_the_drive_was_read() -> None:
    async def resolve(session: DriveSession) -> None:
        session.resolve(hostmap().find("c1"))

    with pytest.raises(Refusal, match="was not read"):
        with_session(resolve, EmulatedTransport({"/dev/nvme0": (subsystem(), 0)}))


def test_closed_session_refuses_commands_and_leaves_no_handle() -> None:
    transport = EmulatedTransport({"/dev/nvme0": (subsystem(), 0)})
    session = with_session(looked, transport)
    with pytest.raises(DriveProblem, match="not open"):
        _ = session.controller
    session.close()
    assert not transport._handles


# Attachments


async def read_twice(
    session: DriveSession, between: Callable[[], None]
) -> tuple[dict[int, list[int]], dict[int, list[int]], bool]:
    await looked(session)
    first = await session.read_attached(fresh=False)
    between()
    second = await session.read_attached()
    return first.by_nsid, second.by_nsid, second.complete


def test_second_read_follows_created_and_deleted_namespaces() -> None:
    drive = subsystem((1, 2))

    def change() -> None:
        drive.remove_namespace(1)
        drive.add_namespace(Namespace(9), [3])

    transport = EmulatedTransport({"/dev/nvme0": (drive, 0)})
    first, second, complete = with_session(lambda s: read_twice(s, change), transport)
    assert (first, second, complete) == ({1: [3, 4], 2: [3, 4]}, {2: [3, 4], 9: [3]}, True)


def test_every_page_of_namespaces_and_controllers_is_read() -> None:
    drive = subsystem(range(1, 2100), controllers=range(2200))
    transport = EmulatedTransport({"/dev/nvme0": (drive, 0)})
    first, second, complete = with_session(lambda s: read_twice(s, lambda: None), transport)
    assert complete
    assert first == second
    assert list(second) == list(range(1, 2100))
    assert second[2099] == list(range(1, 2200))


def test_unreadable_namespace_makes_the_read_incomplete_and_keeps_the_rest() -> None:
    def hook(_path: str, command: Command) -> Fault | None:
        return fail(0x4006) if command.cdw10 & 0xFF == 0x12 and command.nsid == 2 else None

    async def read(session: DriveSession) -> tuple[bool, dict[int, tuple[int, ...]], str]:
        await looked(session)
        attached = await session.read_attached()
        return attached.complete, attached.of([3]), str(attached.faults[2])

    transport = EmulatedTransport({"/dev/nvme0": (subsystem(), 0)})
    transport.faults["/dev/nvme0"] = hook
    complete, of_target, fault = with_session(read, transport)
    assert not complete
    assert of_target == {1: (3,)}
    assert "namespace 2 (CNS 12h): Internal Error" in fault


def test_namespace_deleted_while_it_was_read_is_no_fault() -> None:
    drive = subsystem((1, 2))

    async def read(session: DriveSession) -> bool:
        await looked(session)
        drive.remove_namespace(2)
        attached = await session.read_attached()
        return attached.complete and attached.nsids == [1]

    assert with_session(read, EmulatedTransport({"/dev/nvme0": (drive, 0)}))
