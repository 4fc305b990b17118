"""A restore gives back what is on record and still is what it was, names what it leaves out, and sends no more."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from nvmefence.fencing.evidence import Identity
from nvmefence.fencing.restore import restore
from nvmefence.fencing.restored import Gave, RestoreReport
from nvmefence.fencing.terms import Terms, Unanswered, Wanted
from nvmefence.inventory import hostfile
from nvmefence.inventory.drives import Drive, LocalController
from nvmefence.nvme.commands import NAMESPACE_ATTACHMENT, VIRTUALIZATION_MANAGEMENT, Cns
from nvmefence.nvme.emulated import (
    EmulatedSubsystem,
    EmulatedTransport,
    Fault,
    Namespace,
    delay,
    fail,
    hang,
    on,
    remove,
)
from nvmefence.nvme.structures import identify_namespace
from nvmefence.nvme.transport import Command
from nvmefence.records.record import Offline, Taken
from tests.property.virtual_time import Clock, run

T0 = "2026-03-01T00:00:00.000Z"
VF1, VF2 = 11, 12
MINE = (VF1,)


class Bench:
    """Two drives with a primary controller 0; host c1 has virtual function 1, c2 the second."""

    def __init__(self, *, own: int = 0, latency: float = 0.0) -> None:
        self.drives = [
            EmulatedSubsystem(
                f"nqn.{n}", f"S{n}", controllers=[0, 5], secondaries=[VF1, VF2],
                namespaces=[Namespace(1), Namespace(2), Namespace(3, shared=False)], attached=(5,),
            )
            for n in range(2)
        ]  # fmt: skip
        self.own = own
        self.transport = EmulatedTransport(
            {f"/dev/nvme{n}": (d, own) for n, d in enumerate(self.drives)}, latency=latency
        )
        self.clock = Clock()
        self.hosts: dict[str, Any] = {"c1": {"controllers": VF1}, "c2": {"controllers": VF2}}
        self.there: tuple[int, ...] = (0, 1)

    def taken(self, nsid: int = 1, *, drive: int = 0, ids: tuple[int, ...] = MINE) -> Taken:
        """A namespace as it is now, on record as taken."""
        command = identify_namespace(self._page(drive, nsid))
        return Taken(f"S{drive}", f"nqn.{drive}", nsid, ids, Identity.of(command), T0, "r-1")

    def _page(self, drive: int, nsid: int) -> bytes:
        return self.drives[drive]._identify_namespace(nsid)[2]

    def offline(self, cntlid: int = VF1, *, drive: int = 0, queues: int = 2) -> Offline:
        self.drives[drive]._offline(cntlid)
        return Offline(f"S{drive}", f"nqn.{drive}", cntlid, queues, queues, T0, True)

    async def restore(
        self, taken: Sequence[Taken] = (), offline: Sequence[Offline] = (), **terms: Any
    ) -> RestoreReport:
        hostmap = hostfile.parse({"version": 1, "drives": {"count": 2}, "hosts": self.hosts}, "hosts.toml")
        found = [
            Drive(
                f"nqn.{n}", f"S{n}", "M", "1",
                (LocalController(f"nvme{n}", f"/dev/nvme{n}", self.own, "", "live", False),),
            )
            for n in self.there
        ]  # fmt: skip
        return await restore(
            self.transport, hostmap, found, hostmap.find("c1"), Wanted(taken, offline), Terms(**terms)
        )

    def run(self, taken: Sequence[Taken] = (), offline: Sequence[Offline] = (), **terms: Any) -> RestoreReport:
        return run(self.restore(taken, offline, **terms), self.clock)

    def changes(self) -> list[tuple[str, int]]:
        """What was sent that changes something: action, and namespace or controller."""
        found = []
        for sent in self.transport.log:
            command = sent.command
            if command.opcode == NAMESPACE_ATTACHMENT:
                found.append((("attach", "detach")[command.cdw10 & 0xF], command.nsid))
            elif command.opcode == VIRTUALIZATION_MANAGEMENT:
                found.append(({7: "offline", 8: "assign", 9: "online"}[command.cdw10 & 0xF], command.cdw10 >> 16))
        return found

    def fault(self, hook: Callable[[str, Command], Fault | None], drive: int = 0) -> None:
        self.transport.faults[f"/dev/nvme{drive}"] = hook

    def has(self, nsid: int, drive: int = 0) -> bool:
        return VF1 in self.drives[drive].attached(nsid)


def reasons(report: RestoreReport) -> str:
    return "; ".join(map(str, report.left))


def test_what_is_on_record_is_given_back_and_nothing_else() -> None:
    bench = Bench()
    report = bench.run([bench.taken(1), bench.taken(2, drive=1)])
    assert report.complete
    assert (bench.has(1), bench.has(2), bench.has(1, 1), bench.has(2, 1)) == (True, False, False, True)
    assert bench.changes() == [("attach", 1), ("attach", 2)]
    assert [drive.outcome for drive in report.drives] == [Gave.RESTORED] * 2
    assert report.given() == [bench.taken(1), bench.taken(2, drive=1)]
    assert report.message() == "SIMULATED: Restored c1: it has 2 attachments on 2 drives again, in 0.000 s"
    assert report.left == []


def test_what_the_host_has_already_is_left_as_it_is() -> None:
    bench = Bench()
    bench.drives[0].set_attached(1, {5, VF1})
    report = bench.run([bench.taken(1)])
    assert (report.complete, report.touched, bench.changes()) == (True, False, [])
    assert report.drives[0].outcome is Gave.ALREADY
    assert "it had 1 attachment" in report.message()


def replaced(bench: Bench, **fields: Any) -> None:
    old = bench.drives[0].namespaces[1]
    bench.drives[0].add_namespace(old._replace(**fields), bench.drives[0].attached(1))


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"nguid": b"\x07" * 16}, "another namespace has its number now (NGUID 0707"),
        ({"size": 77}, "it has another size now (77 blocks of 4096 bytes, it was 2097152 of 4096)"),
        ({"block_size": 512}, "it has another size now"),
    ],
)
def test_a_namespace_that_is_another_now_is_left_out(fields: dict[str, Any], why: str) -> None:
    bench = Bench()
    taken = [bench.taken(1), bench.taken(2)]
    replaced(bench, **fields)
    report = bench.run(taken)
    assert not report.complete
    assert why in reasons(report)
    assert bench.changes() == [("attach", 2)]
    assert report.given() == taken[1:]
    assert report.drives[0].outcome is Gave.PARTLY
    assert "NOT all of c1 restored (1 attachment on 1 drive)" in report.message()


def test_a_namespace_that_is_gone_is_left_out() -> None:
    bench = Bench()
    taken = [bench.taken(1)]
    bench.drives[0].remove_namespace(1)
    report = bench.run(taken)
    assert "the namespace no longer exists" in reasons(report)
    assert (bench.changes(), report.drives[0].outcome) == ([], Gave.LEFT_OUT)


@pytest.mark.parametrize("which", [None, Identity("", "", 1 << 21, 4096)])
def test_what_cannot_be_told_from_another_is_left_to_a_person_with_the_exact_command(
    which: Identity | None,
) -> None:
    bench = Bench()
    taken = replace(bench.taken(1), identity=which)
    report = bench.run([taken])
    assert "which namespace it was is not on record" in reasons(report)
    assert bench.changes() == []
    assert report.left[0].by_hand == f"nvme attach-ns /dev/nvme0 --namespace-id=1 --controllers={VF1}"
    bench.drives[0].set_attached(1, {5, VF1})
    assert bench.run([taken]).complete, "once a person has done it, that is settled"


def test_an_identity_that_is_known_in_part_must_agree_as_far_as_it_is_known() -> None:
    bench = Bench()
    known = bench.taken(1).identity
    assert known is not None
    assert bench.run([replace(bench.taken(1), identity=known._replace(eui64=""))]).complete
    assert bench.run([replace(bench.taken(2), identity=known._replace(nguid="", eui64="1" * 16))]).given() == []


def test_a_controller_that_is_not_the_hosts_by_todays_map_gets_nothing() -> None:
    bench = Bench()
    report = bench.run([bench.taken(1, ids=(5, VF1, VF2))], [bench.offline(VF2)])
    assert report.given() == [bench.taken(1)]
    assert VF2 not in bench.drives[0].attached(1)
    assert not bench.drives[0].secondaries[VF2].online
    assert "namespace 1 for controller 12: controller 12 is not c1's by today's map" in reasons(report)
    assert "controller 12 stays offline: it is not c1's by today's map" in reasons(report)


def test_a_host_that_is_refused_on_a_drive_gets_nothing_there() -> None:
    bench = Bench()
    bench.hosts["c1"] = {"controllers": 99}
    report = bench.run([bench.taken(1)])
    assert (bench.changes(), report.complete) == ([], False)
    assert "controller 99 does not exist" in reasons(report)


def test_a_private_namespace_that_another_has_now_is_left_out_and_the_rest_is_given() -> None:
    bench = Bench()
    bench.drives[0].set_attached(3, {5})
    report = bench.run([bench.taken(3), bench.taken(1)])
    assert "Namespace Is Private (119h)" in reasons(report)
    assert report.given() == [bench.taken(1)]


def test_a_drive_that_is_not_there_is_left_out_and_stays_so_on_record() -> None:
    bench = Bench()
    bench.there = (1,)
    report = bench.run([bench.taken(1), bench.taken(1, drive=1)])
    assert "S0: namespace 1 for controller 11: the drive is not among the expected ones" in reasons(report)
    assert report.given() == [bench.taken(1, drive=1)]
    assert report.left[0].by_hand.startswith("nvme attach-ns /dev/nvmeX ")


# Secondary controllers


def test_controllers_come_back_online_with_what_they_had_before_anything_is_attached() -> None:
    bench = Bench()
    offline = bench.offline(queues=2)
    report = bench.run([bench.taken(1)], [offline])
    assert report.complete
    assert bench.changes() == [("assign", VF1), ("assign", VF1), ("online", VF1), ("attach", 1)]
    entry = bench.drives[0].secondaries[VF1]
    assert (entry.online, entry.vq, entry.vi) == (True, 2, 2)
    assert report.online() == [offline]
    assert "1 attachment and 1 controller" in report.message()


def test_a_controller_that_somebody_else_left_offline_is_brought_online_too() -> None:
    bench = Bench()
    bench.offline()
    assert bench.run([bench.taken(1)]).complete
    entry = bench.drives[0].secondaries[VF1]
    assert (entry.online, entry.vq, entry.vi) == (True, 2, 2), "with what others have"


def test_a_controller_that_does_not_come_online_is_given_nothing_and_both_are_named() -> None:
    bench = Bench()
    offline = bench.offline()
    bench.fault(lambda _path, command: fail(0x4122) if command.opcode == VIRTUALIZATION_MANAGEMENT else None)
    report = bench.run([bench.taken(1)], [offline])
    assert ("attach", 1) not in bench.changes()
    assert "controller 11 could not be brought online" in reasons(report)
    assert report.left[0].by_hand == (
        "nvme virt-mgmt /dev/nvme0 --cntlid=11 --rt=0 --nr=2 --act=8 && "
        "nvme virt-mgmt /dev/nvme0 --cntlid=11 --rt=1 --nr=2 --act=8 && "
        "nvme virt-mgmt /dev/nvme0 --cntlid=11 --act=9"
    )


def test_where_ours_is_no_primary_controller_what_is_offline_is_named_and_the_rest_is_given() -> None:
    bench = Bench(own=5)
    bench.hosts = {"c1": {"controllers": VF1}}
    offline = bench.offline()
    report = bench.run([bench.taken(1)], [offline])
    assert bench.has(1)
    assert report.online() == []
    assert "our controller" in reasons(report)


def test_what_a_fence_left_half_done_is_mended_only_where_nothing_is_attached() -> None:
    bench = Bench()
    offline = [bench.offline(), bench.offline(drive=1)]
    bench.drives[1].set_attached(2, {5, VF1})
    report = bench.run((), offline, only_loose=True)
    assert report.online() == offline[:1]
    assert bench.drives[0].secondaries[VF1].online
    assert not bench.drives[1].secondaries[VF1].online
    assert "S1: controller 11 stays offline: it is still attached to namespace 2" in reasons(report)


# A dry run


def test_a_dry_run_plans_and_sends_nothing() -> None:
    bench = Bench()
    offline = bench.offline()
    taken = [bench.taken(1), bench.taken(2)]
    replaced(bench, size=7)
    report = bench.run(taken, [offline], dry_run=True)
    assert bench.changes() == []
    words = [one.words for one in report.drives[0].planned]
    assert words == [
        "Virtualization Management opcode=1Ch controller=11 (online, with 2 queues and 2 interrupts)",
        "Namespace Attachment opcode=15h nsid=2 cdw10=00000000h (attach) controllers=11",
    ]
    assert [one.reason for one in report.left if one.reason] == [
        "it has another size now (7 blocks of 4096 bytes, it was 2097152 of 4096)"
    ]


# Faults


@pytest.mark.parametrize("status", [0x022, 0x370, -4])
def test_a_failure_that_passes_is_got_over(status: int) -> None:
    bench = Bench()
    bench.fault(on(NAMESPACE_ATTACHMENT, fail(status), times=2))
    assert bench.run([bench.taken(1), bench.taken(2)]).complete


def test_success_is_believed_only_if_a_read_shows_it() -> None:
    bench = Bench()
    bench.fault(on(NAMESPACE_ATTACHMENT, Fault(applied=False, status=0)))
    report = bench.run([bench.taken(1)], deadline=3.0)
    assert (report.complete, report.given()) == (False, [])
    assert bench.clock.now == pytest.approx(1003.0, abs=1.1)


def test_a_list_that_fails_goes_on_one_controller_at_a_time() -> None:
    bench = Bench()
    bench.hosts = {"c1": {"controllers": [VF1, VF2]}}
    seen = 0

    def hook(_path: str, command: Command) -> Fault | None:
        nonlocal seen
        several = command.opcode == NAMESPACE_ATTACHMENT and command.data[:1] == b"\2"
        seen += several
        return fail(0x411C) if several else None

    bench.fault(hook)
    report = bench.run([bench.taken(1, ids=(VF1, VF2))])
    assert report.complete
    assert seen == 1


def test_a_drive_that_does_not_answer_delays_no_other_and_its_part_is_named() -> None:
    bench = Bench()
    bench.fault(on(0x06, hang()))
    report = bench.run([bench.taken(1), bench.taken(1, drive=1)], deadline=5.0)
    assert bench.has(1, 1)
    assert "no answer" in reasons(report)
    assert bench.clock.now <= 1005.1


def test_a_drive_that_vanishes_is_named() -> None:
    bench = Bench()
    bench.fault(on(NAMESPACE_ATTACHMENT, remove()))
    report = bench.run([bench.taken(1)], deadline=2.0)
    assert not report.complete
    assert report.left[0].reason


def test_an_attach_without_an_answer_is_unknown_and_keeps_being_waited_for() -> None:
    bench = Bench()
    bench.fault(on(NAMESPACE_ATTACHMENT, delay(9.0)))
    unanswered = Unanswered()
    ended: list[float] = []

    async def story() -> None:
        report = await bench.restore([bench.taken(1)], deadline=2.0, unanswered=unanswered)
        assert bench.clock.now == pytest.approx(1002.0)
        assert "whether it was attached is not known" in reasons(report)
        assert report.given() == []
        assert unanswered
        unanswered.when_none(lambda: ended.append(bench.clock.now))
        await asyncio.sleep(20.0)
        assert bench.has(1)

    run(story(), bench.clock)
    assert ended == [pytest.approx(1009.0)]


def test_an_answer_that_nobody_can_hear_of_any_more_is_waited_for_for_ever() -> None:
    bench = Bench()
    bench.fault(on(NAMESPACE_ATTACHMENT, hang()))
    unanswered = Unanswered()
    ended: list[float] = []

    async def story() -> None:
        await bench.restore([bench.taken(1)], deadline=2.0, unanswered=unanswered)
        unanswered.when_none(lambda: ended.append(bench.clock.now))
        bench.transport.close()
        await asyncio.sleep(1.0)

    run(story(), bench.clock)
    assert ended == []
    assert unanswered


def test_nothing_is_sent_once_leave_is_withdrawn_and_not_in_lots_that_wait() -> None:
    bench = Bench()
    for nsid in range(10, 60):
        bench.drives[0].add_namespace(Namespace(nsid), (5,))
    asked = 0

    def permit() -> str:
        nonlocal asked
        asked += 1
        return "a fence of c1 has begun" if asked > 2 else ""

    report = bench.run([bench.taken(nsid) for nsid in range(10, 60)], permit=permit)
    assert len(bench.changes()) == 32, "two lots of sixteen"
    assert report.gave_up == "a fence of c1 has begun"
    assert report.message().startswith("SIMULATED: NOT all of c1 restored")
    assert "a fence of c1 has begun" in report.message()


def test_without_leave_from_the_start_nothing_is_sent() -> None:
    bench = Bench()
    report = bench.run([bench.taken(1)], [bench.offline()], permit=lambda: "a fence of c1 has begun")
    assert (bench.changes(), report.touched, report.gave_up) == ([], False, "a fence of c1 has begun")


def test_a_namespace_that_is_replaced_under_the_attach_is_named_with_what_to_do() -> None:
    bench = Bench()
    taken = [bench.taken(1)]

    def hook(_path: str, command: Command) -> None:
        if command.opcode == NAMESPACE_ATTACHMENT:
            replaced(bench, nguid=b"\x09" * 16)

    bench.fault(hook)
    report = bench.run(taken)
    assert report.given() == []
    assert "it was replaced while it was given back" in reasons(report)
    assert "cut with nvmefence detach" in reasons(report)


def test_the_evidence_is_plain_data() -> None:
    bench = Bench()
    document = bench.run([bench.taken(1)], [bench.offline()]).to_json()
    (drive,) = document["drives"]
    assert document["complete"] is True
    assert drive["outcome"] == "restored"
    assert drive["namespaces"][0]["given"] == [VF1]
    assert [sent["status_text"] for sent in drive["sent"]] == ["Successful Completion"]
    assert len(drive["managed"]) == 3
    assert Cns.ALLOCATED_NAMESPACE in {sent.command.cdw10 & 0xFF for sent in bench.transport.log}


def test_what_may_be_given_is_noted_before_it_is_sent_and_struck_out_after_its_answer() -> None:
    bench = Bench()
    noted: list[tuple[bool, int]] = []
    unanswered = Unanswered(lambda there: noted.append((there, len(bench.changes()))))
    run(bench.restore([bench.taken(1), bench.taken(2)], unanswered=unanswered), bench.clock)
    assert noted[0] == (True, 0)
    assert noted[-1] == (False, len(bench.changes()))


def test_nothing_is_given_where_that_cannot_be_noted() -> None:
    bench = Bench()

    def note(_there: bool) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    report = run(bench.restore([bench.taken(1)], unanswered=Unanswered(note)), bench.clock)
    assert not report.complete
    assert "what is being given cannot be noted: No space left on device" in reasons(report)
    assert bench.changes() == []
