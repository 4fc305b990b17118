"""The emulation passes the checks that real controllers pass, and they find an emulation that does not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from nvmefence.nvme import commands
from nvmefence.nvme.emulated import (
    QEMU_7_2,
    SPECIFICATION,
    EmulatedSubsystem,
    EmulatedTransport,
    Fault,
    Namespace,
    Quirks,
    lie,
    on,
)
from nvmefence.nvme.simulation import SimulatedTransport, load_fleet
from nvmefence.nvme.status import INVALID_CONTROLLER_ID
from nvmefence.nvme.transport import Command
from tests.conformance import checks
from tests.conformance.bench import Bench, bench_from_sysfs
from tests.conformance.checks import CHECKS, Check

NQN = "nqn.2014-08.org.nvmexpress:bench"
QUIRKS = {
    "specification": SPECIFICATION,
    "qemu-7.2": QEMU_7_2,
    "all-or-nothing": replace(SPECIFICATION, partial_lists=False, unknown_controller=INVALID_CONTROLLER_ID),
}
NAMESPACES = [Namespace(1), Namespace(2), Namespace(5), Namespace(6, shared=False)]


def sriov(quirks: Quirks) -> EmulatedSubsystem:
    secondaries = [3, 4, 9]
    return EmulatedSubsystem(
        NQN, "B1", controllers=[1], secondaries=secondaries, namespaces=NAMESPACES, quirks=quirks
    )


def ports(quirks: Quirks) -> EmulatedSubsystem:
    return EmulatedSubsystem(NQN, "B1", controllers=[1, 2, 7], namespaces=NAMESPACES, quirks=quirks)


def bench(drive: EmulatedSubsystem, quirks: Quirks | None) -> Bench:
    transport = EmulatedTransport({"/dev/nvme0": (drive, 1)})
    targets = tuple(cntlid for cntlid in drive.cntlids if cntlid != 1)
    return Bench(transport, transport.open("/dev/nvme0"), 1, "B1", NQN, (1, 2, 5), targets, quirks)


def run(check: Check, on_bench: Bench) -> None:
    async def main() -> None:
        await check(on_bench)

    asyncio.run(main())


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("quirks", QUIRKS.values(), ids=QUIRKS)
@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
@pytest.mark.parametrize("shape", [sriov, ports])
def test_emulation_conforms(
    check: Check, quirks: Quirks, known: bool, shape: Callable[[Quirks], EmulatedSubsystem]
) -> None:
    drive = shape(quirks)
    before = drive.snapshot()
    run(check, bench(drive, quirks if known else None))
    assert drive.snapshot() == before, "the check left something changed"


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_simulated_fleet_conforms(check: Check, tmp_path: Path) -> None:
    (tmp_path / "fleet.toml").write_text(
        "[fleet]\ndrives = 1\nsecondary_controllers = 4\nnamespaces = 3\nquirks = 'qemu-7.2'\n"
    )
    transport = SimulatedTransport(load_fleet(tmp_path / "fleet.toml"))
    device = transport.open("/dev/nvme0")
    nqn = "nqn.2014-08.org.nvmexpress:simulated:SIM00000"
    run(check, Bench(transport, device, 0, "SIM00000", nqn, (1, 2, 3), (1, 2, 3, 4), QEMU_7_2))


def test_a_bench_is_made_from_sysfs(tmp_path: Path) -> None:
    for name, cntlid, nqn in (("nvme0", 1, NQN), ("nvme1", 3, NQN), ("nvme7", 4, "nqn.2014-08.org:another")):
        folder = tmp_path / name
        folder.mkdir()
        for attribute, value in {"cntlid": cntlid, "subsysnqn": nqn, "serial": "B1      "}.items():
            (folder / attribute).write_text(f"{value}\n")
    transport = EmulatedTransport({"/dev/nvme0": (sriov(QEMU_7_2), 1)})
    device = transport.open("/dev/nvme0")
    made = asyncio.run(bench_from_sysfs(transport, device, "nvme0", QEMU_7_2, tmp_path))
    assert (made.cntlid, made.serial, made.nqn) == (1, "B1", NQN)
    assert made.namespaces == (1, 2, 5)
    assert made.targets == (4, 9)


@pytest.mark.parametrize(
    ("check", "opcode", "fault"),
    [
        (checks.detach_and_attach_are_seen_by_a_read_back, commands.NAMESPACE_ATTACHMENT, lie()),
        (checks.identify_controller_is_the_one_we_opened, commands.IDENTIFY, Fault(data=bytes(4096))),
        (checks.effects_log_tells_of_namespace_attachment, commands.GET_LOG_PAGE, Fault(data=bytes(4096))),
        (checks.an_empty_controller_list_is_refused, commands.NAMESPACE_ATTACHMENT, lie()),
        (checks.offline_keeps_attachments_and_online_needs_resources, commands.VIRTUALIZATION_MANAGEMENT, lie()),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_checks_find_a_controller_that_lies(check: Check, opcode: int, fault: Fault) -> None:
    on_bench = bench(sriov(SPECIFICATION), SPECIFICATION)
    assert isinstance(on_bench.transport, EmulatedTransport)
    on_bench.transport.faults["/dev/nvme0"] = on(opcode, fault)
    with pytest.raises((AssertionError, ValueError)):
        run(check, on_bench)


def test_checks_find_a_wrong_quirk() -> None:
    """What is foretold is required: an emulation with other quirks than those on the bench does not pass."""
    failed = []
    for check in CHECKS:
        try:
            run(check, bench(sriov(SPECIFICATION), QEMU_7_2))
        except AssertionError:
            failed.append(check.__name__)
        except pytest.skip.Exception:
            continue
    assert len(failed) >= 4


def test_checks_touch_targets_only() -> None:
    for check in CHECKS:
        on_bench = bench(sriov(SPECIFICATION), SPECIFICATION)
        try:
            run(check, on_bench)
        except pytest.skip.Exception:
            continue
        assert isinstance(on_bench.transport, EmulatedTransport)
        for sent in on_bench.transport.log:
            if sent.status == 0:
                assert named(sent.command) <= set(on_bench.targets)


def named(command: Command) -> set[int]:
    """Return the controllers that a command would change."""
    if command.opcode == commands.VIRTUALIZATION_MANAGEMENT:
        return {command.cdw10 >> 16}
    if command.opcode != commands.NAMESPACE_ATTACHMENT:
        return set()
    count = int.from_bytes(command.data[:2], "little")
    return {int.from_bytes(command.data[2 + 2 * n : 4 + 2 * n], "little") for n in range(count)}
