"""Qualifying a drive: what is found out about drives that behave in one way or another, and what follows."""

from __future__ import annotations

from pathlib import Path

import pytest

from nvmefence.inventory.drives import Drive, LocalController
from nvmefence.nvme import status
from nvmefence.nvme.commands import NAMESPACE_ATTACHMENT, VIRTUALIZATION_MANAGEMENT
from nvmefence.nvme.emulated import (
    EmulatedSubsystem,
    EmulatedTransport,
    Namespace,
    Quirks,
    fail,
    on,
)
from nvmefence.qualify import judge
from nvmefence.qualify.control import Control
from nvmefence.qualify.figures import (
    Cut,
    Measured,
    Plan,
    Reset,
    Step,
    Times,
)
from nvmefence.settings import load
from tests.unit.qualify_place import (
    NSID,
    OTHER,
    PLAN,
    TARGET,
    Forgetful,
    NeverCut,
    Place,
    quick,  # noqa: F401 (a fixture)
)


def words(measured: Measured) -> list[str]:
    return [answer.answer for answer in judge.answers(measured)]


def verdicts(measured: Measured) -> dict[str, str]:
    return {rule.quiesce.partition(":")[0]: rule.verdict for rule in judge.rules(measured)}


# What is found out


def test_late_writes_are_found_after_a_detach_and_none_after_a_drain_that_drains() -> None:
    place = Place()
    before = place.snapshot()
    measured = place.measure()
    assert place.snapshot() == before
    cuts = measured.of("none")
    assert len(cuts) == PLAN.rounds
    assert any(cut.late for cut in cuts)
    assert all(0 < seconds < 0.2 for cut in cuts for seconds in cut.late)
    assert all(cut.landed + cut.landed_late + cut.failed == cut.under_way for cut in measured.cuts)
    drained = measured.of("drain")
    assert len(drained) == PLAN.rounds
    assert not any(cut.late for cut in drained)
    assert all(cut.offline_seen and cut.online_again for cut in drained)
    assert [step.name for step in drained[0].steps] == [
        "offline", "detach", "assign queues", "assign interrupts", "online", "attach",
    ]  # fmt: skip
    assert words(measured)[:4] == ["late_writes", "left_running", "none_seen", "works"]
    assert verdicts(measured) == {
        "drain": "justified", "offline": "justified", "wait": "justified", "none": "ruled_out",
    }  # fmt: skip
    assert [(one.action, len(one.seconds)) for one in measured.times] == [("detach", 3), ("attach", 3)]


def test_a_drain_that_does_not_drain_is_ruled_out_and_auto_is_not_proposed() -> None:
    measured = Place(Quirks(offline_drains=False)).measure(Plan(rounds=3, timing_rounds=1, watch_s=0.05, writes=2))
    assert any(cut.late for cut in measured.of("drain"))
    assert verdicts(measured)["drain"] == verdicts(measured)["offline"] == "ruled_out"
    lines = judge._settings(measured, "MODEL 9", "1")
    assert lines[1:] == ['quiesce = "wait:1"']


def test_a_drive_whose_detach_waits_shows_no_late_write_and_that_is_not_taken_for_proof() -> None:
    measured = Place(Quirks(detach_drains=True)).measure()
    assert not any(cut.late for cut in measured.cuts)
    assert words(measured)[:2] == ["none_seen", "finished"]
    assert verdicts(measured)["none"] == "not_known"
    late = next(judge.answers(measured)).text
    assert "none was seen in 2 rounds" in late
    assert "not the same as that there is none" in late
    assert '"none"' not in "\n".join(judge.settings(measured, "MODEL 9", "1"))


def test_a_drive_that_takes_new_writes_after_a_detach_is_told_apart_and_nothing_is_justified() -> None:
    measured = Place(kind=NeverCut).measure(Plan(rounds=1, timing_rounds=1, watch_s=0.05, writes=1))
    assert any(cut.accepted_after for cut in measured.of("none"))
    assert words(measured)[0] == "not_cut"
    assert "justified" not in (verdicts(measured)["wait"], verdicts(measured)["none"])
    assert judge.settings(measured, "MODEL 9", "1") == []


def test_a_detach_that_lies_is_told_and_nothing_is_justified() -> None:
    place = Place()
    place.transport.faults["/dev/nvme0"] = on(NAMESPACE_ATTACHMENT, fail(0))
    measured = place.measure(Plan(rounds=1, timing_rounds=1, watch_s=0.05, writes=1))
    assert "the read-back shows the controller attached" in measured.not_measured["writes"]
    assert words(measured)[0] == "not_cut"
    assert set(verdicts(measured).values()) == {"ruled_out"}
    assert judge.settings(measured, "MODEL 9", "1") == []


def test_a_measurement_that_is_broken_off_is_no_verdict_on_the_drive() -> None:
    cut = Cut("drain", [Step("offline", 0, 0.1)], under_way=1, offline_seen=True, online_again=True)
    measured = Measured([cut], not_measured={"drain": "nvme10 (live) did not show namespace 2 within 60 s"})
    assert words(measured)[3] == "works"
    assert all("broken off: nvme10" in one.text for one in list(judge.answers(measured))[2:4])


def test_a_drive_without_secondary_controllers_is_not_drained_and_the_reason_is_the_answer() -> None:
    place = Place()
    local = LocalController("nvme0", "/dev/nvme0", 1, "", "live", False)
    drive = EmulatedSubsystem(
        "nqn.example:0", "S0", controllers=[1, TARGET], namespaces=[Namespace(NSID)], attached=[1, TARGET]
    )
    place.drive, place.transport = drive, EmulatedTransport({"/dev/nvme0": (drive, 1)})
    place.found = Drive("nqn.example:0", "S0", "M", "1", (local,))
    place.control = Control(place.transport, place.found, local, TARGET, NSID)
    measured = place.measure()
    assert "gives no Secondary Controller List" in measured.not_measured["drain"]
    assert words(measured)[2:4] == ["not_measured", "not_measured"]
    assert verdicts(measured)["drain"] == "not_known"
    assert [line for line in judge._settings(measured, "M", "1") if "quiesce =" in line] == []


def test_a_step_that_fails_is_told_and_the_rest_is_measured_nevertheless() -> None:
    place = Place()
    place.transport.faults["/dev/nvme0"] = on(VIRTUALIZATION_MANAGEMENT, fail(status.INVALID_FIELD | status.DNR))
    measured = place.measure(Plan(rounds=1, timing_rounds=2, watch_s=0.1, questions=frozenset(("drain", "times"))))
    assert "offline failed: Invalid Field" in measured.not_measured["drain"]
    assert words(measured)[3] == "fails"
    assert verdicts(measured)["drain"] == "ruled_out"
    assert len(measured.times) == 2


def test_what_a_reset_loses_is_named_and_put_back() -> None:
    place = Place(kind=Forgetful)
    before = place.snapshot()
    measured = place.measure(Plan(questions=frozenset(("resets",))))
    assert place.snapshot() == before
    lost = {(one.what, one.attached): (one.lost, one.offline) for one in measured.resets}
    assert lost["own", True] == ((f"namespace {NSID} from controller {TARGET}",), (TARGET, OTHER))
    assert lost["own", False] == ((), (TARGET, OTHER))
    assert lost["host", True] == ((), ())
    assert [one.why_not for one in measured.resets if one.what == "subsystem"] == ["it was not asked for"] * 2


def test_our_controller_is_not_reset_while_others_use_the_drive() -> None:
    place = Place()
    place.drive.set_attached(2, [OTHER])
    measured = place.measure(Plan(questions=frozenset(("resets",))))
    assert place.drive.secondaries[OTHER].online
    assert {one.what for one in measured.resets if not one.why_not} == {"host"}
    assert f"namespace 2 is attached to [{OTHER}]" in measured.resets[2].why_not


def test_too_few_writes_are_no_answer() -> None:
    measured = Measured(cuts=[Cut("none")], not_measured={"writes": "only 0 of 3 cuts found writes under way"})
    assert words(measured)[0] == "not_measured"
    assert verdicts(measured)["none"] == verdicts(measured)["wait"] == "not_known"


# What follows from it


def enough(seconds: float, model: str = "MODEL 9", drain: float | None = None, rounds: int = 20) -> list[str]:
    cuts = [Cut("none", under_way=1, late=[seconds]) for _ in range(rounds)]
    cuts += [Cut("drain", under_way=1, late=[] if drain is None else [drain]) for _ in range(rounds)]
    return judge.settings(Measured(cuts), model, "1.0")


@pytest.mark.parametrize("model", ["MODEL 9", 'ACME "Fast" [1]*?\\'])
def test_the_lines_proposed_are_settings_that_match_the_model_and_no_other(model: str, tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text("\n".join(enough(3.1, model)))
    settings = load({}, {"NVMEFENCE_CONFIG": str(path)})
    choice = settings.quiesce.choose(model, "no secondary controllers")
    assert (choice.name, choice.reason) != ("wait:10", "no secondary controllers")
    assert choice.name == "wait:7"
    assert settings.quiesce.choose(f"{model}X", "no").name == "wait:10"
    assert settings.quiesce.choose(model, "").name == "drain"


def test_a_wait_beyond_the_default_is_said_to_be_needed() -> None:
    assert any("the default of 10 s is too short" in line for line in enough(5.5))
    assert not any("too short" in line for line in enough(4.9))


def test_few_rounds_propose_nothing_that_would_be_taken_as_it_is() -> None:
    lines = enough(1.0, rounds=19)
    assert lines[0].startswith("# of 19 rounds, too few")
    assert all(line.startswith("#") or not line for line in lines)
    assert any(not line.startswith("#") for line in enough(1.0))


def test_percentiles_are_of_values_that_were_measured() -> None:
    times = Times("detach", "ioctl", tuple(float(n) for n in range(1, 101)))
    assert (times.percentile(0.5), times.percentile(0.99), times.to_json()["max_s"]) == (50.0, 99.0, 100.0)
    assert Times("detach", "ioctl", (7.0,)).percentile(0.99) == 7.0


def test_a_reset_that_changed_nothing_and_one_that_was_not_made_are_not_the_same() -> None:
    answers = {
        one.question: one
        for one in judge.answers(Measured(resets=[Reset("host", True), Reset("own", True, "why")]))
    }
    assert [one.answer for one in answers.values()][-3:-1] == ["kept", "not_measured"]
