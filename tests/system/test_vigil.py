"""Staying fenced, with real processes: other software attaches a fenced host again behind the watcher's back."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from nvmefence.nvme.simulation import load_fleet
from tests.system.place import FLEET, MAIN, SLOT_0, SLOT_1
from tests.system.test_watch import Manager, holders
from tests.system.watching import Running, Watching, until

VIGIL_S = 1.0
QUICK = ("--vigil-s", str(VIGIL_S))
SILENT = '\n[[drive]]\nnumber = 1\nanswers = "never"\n'


class Shared(Watching):
    """A place whose drives other software changes as well."""

    def attach(self, controller: int = SLOT_0, drive: int = 0, nsid: int = 1) -> None:
        """Attach a controller without nvmefence's knowledge."""
        fleet = load_fleet(self.path / "fleet.toml")
        with fleet.store.locked():
            fleet.store.refresh()
            subsystem = fleet.subsystems[drive]
            subsystem.set_attached(nsid, {*subsystem.attached(nsid), controller})
            fleet.store.save(subsystem)

    def fence(self, name: str = "r.json", **fields: Any) -> None:
        answer = self.answered(self.ask(name, **fields))
        assert answer["success"] is True, answer["message"]


@pytest.fixture
def place(tmp_path: Path) -> Shared:
    return Shared(tmp_path)


def test_a_fenced_host_that_is_attached_again_is_an_alarm_within_vigil_s(place: Shared) -> None:
    manager = Manager(place.path)
    with place.watcher(*QUICK, env=manager.environment) as running:
        place.fence()
        place.fence("r-2.json", target_node="c2")
        time.sleep(2.5)
        place.attach()
        running.hears("RETURNED: c1 is attached again")
        started = time.monotonic()  # a look has just been: the next is a whole interval away
        place.attach(SLOT_1)
        running.hears("RETURNED: c2 is attached again")
        took = time.monotonic() - started
        assert took < VIGIL_S + 3, f"an alarm after {took:.1f} s; without vigil_s looks come every 5 s"
        assert place.run("detach", "--host", "c2").returncode == 0
        running.hears("c2 is no longer back: it is cut")
        until(lambda: "RETURNED: c1; serving" in manager.hears("STATUS=RETURNED")["STATUS"], "the status has it")
        until(lambda: {"c1", "c2"} <= {line["host"] for line in place.lines("returned")}, "the audit has both")
        (line,) = [one for one in place.lines("returned") if one["host"] == "c1"]
        assert line["enforced"] is False
        assert [(one["serial"], one["attached"]) for one in line["drives"]] == [("SIM00000", {"1": [SLOT_0]})]
        time.sleep(2 * VIGIL_S)
        assert running.text().count("RETURNED: c1") == 1
        assert SLOT_0 in holders(place), "without enforce it is left as it is"
        assert place.run("detach", "--host", "c1").returncode == 0
        running.hears("c1 is no longer back: it is cut")


def test_with_enforce_it_is_cut_again_until_it_is_unfenced_or_restored(place: Shared) -> None:
    with place.watcher(*QUICK, "--enforce") as running:
        place.fence("r-1.json")
        place.fence("r-2.json", target_node="c2")
        for number, controller in enumerate((SLOT_0, SLOT_1)):
            place.attach(controller, drive=number)
        running.hears("cut again: SIMULATED: Fenced c1")
        running.hears("cut again: SIMULATED: Fenced c2")
        assert not holders(place) & {SLOT_0, SLOT_1}
        until(lambda: len(place.lines("enforced")) == 2, "the audit has both")
        lines = place.lines("enforced")
        assert {line["host"] for line in lines} == {"c1", "c2"}
        assert all(line["evidence"]["confirmed"] for line in lines)

        directories = ["--response-dir", str(place.answers)]
        assert place.run("unfence", "--host", "c1", *directories).returncode == 0
        restored = place.run("restore", "--host", "c2", *directories)
        assert restored.returncode == 0, restored.stderr
        place.attach(SLOT_0)
        time.sleep(4 * VIGIL_S)
        assert holders(place) >= {SLOT_0, SLOT_1}
        assert running.text().count("cutting c1 again") == running.text().count("cutting c2 again") == 1
        assert running.stop() == 0
    shown = place.spawn(
        [*MAIN, "history", "--audit", str(place.audit), "--response-dir", str(place.answers)]
    ).stdout
    assert "of a kind that this version does not know" not in shown
    assert "enforced" in shown


def test_whoever_readmits_by_taking_the_responses_away_is_believed(place: Shared) -> None:
    with place.watcher(*QUICK, "--enforce") as running:
        place.fence()
        (place.answers / "r.json").unlink()
        place.attach()
        running.hears("c1 is not cut again: it is fenced on record, and no response says so any more")
        time.sleep(2 * VIGIL_S)
        assert SLOT_0 in holders(place)


def test_what_another_process_fences_is_looked_after_as_well(place: Shared) -> None:
    """The looks by the clock are a minute apart: a new record is what leads to this one."""
    with place.watcher("--vigil-s", "60") as running:
        time.sleep(0.5)
        assert place.run("detach", "--host", "c1").returncode == 0
        time.sleep(1.5)
        place.attach()
        assert place.run("detach", "--host", "c2").returncode == 0
        running.hears("RETURNED: c1 is attached again", within=20)


def test_a_hung_drive_delays_neither_fences_nor_looks_at_the_others(place: Shared) -> None:
    with place.watcher(*QUICK, "--deadline", "2") as running:
        place.fence()
        assert running.stop() == 0
    place.write(FLEET + SILENT)
    with place.watcher(*QUICK, "--deadline", "2") as running:
        running.hears("vigil drives: not looked at for fenced hosts: ")
        place.attach()
        running.hears("RETURNED: c1 is attached again", within=VIGIL_S + 15)
        begun = time.monotonic()
        place.answered(place.ask("r-2.json", target_node="c2"))
        assert time.monotonic() - begun < 2 + 6
        cut = [drive for serial, drive in place.attached().items() if serial != "SIM00001"]
        assert SLOT_1 not in {cntlid for drive in cut for ids in drive.values() for cntlid in ids}


def test_status_shows_who_is_fenced_and_who_is_back(place: Shared) -> None:
    code, document = place.json("status")
    assert (code, document["fenced"], document["unread_records"]) == (0, [], [])
    for host in ("c1", "c2"):
        assert place.run("detach", "--host", host).returncode == 0
    place.attach(nsid=2)
    code, document = place.json("status")
    assert code == 0, "the exit code is about the drives"
    assert {one["host"]: (one["fenced"], one["confirmed"], one["returned"]) for one in document["fenced"]} == {
        "c1": (True, True, True), "c2": (True, True, False),
    }  # fmt: skip
    (there,) = document["fenced"][0]["returned_on"]
    assert (there["serial"], there["attached"]) == ("SIM00000", {"2": [SLOT_0]})
    text = place.run("status").stdout
    assert "RETURNED 1/4" in text
    assert "RETURNED: c1 is attached again, fenced as it is since 20" in text
    assert "c2: fenced since 20" in text
    only = place.run("status", "--host", "c2").stdout
    assert "c1" not in only
    assert "c2: fenced since" in only


def test_status_notes_a_record_that_it_cannot_read(place: Shared) -> None:
    assert place.run("detach", "--host", "c1").returncode == 0
    (record,) = place.path.glob("fleet.toml.fenced/*.json")
    record.write_text("{")
    done = place.run("status")
    assert done.returncode == 0
    assert "note: a record is not believed, so its host may be fenced and not shown so: " in done.stderr
    _, document = place.json("status")
    assert "c1.json" in document["unread_records"][0]


def test_status_during_a_restore_speaks_of_the_restore(place: Shared) -> None:
    from nvmefence.records.places import places
    from nvmefence.settings import Settings

    assert place.run("detach", "--host", "c1").returncode == 0
    place.attach()
    lock = places(Settings(simulate=str(place.path / "fleet.toml"))).locks.restore("c1")
    try:
        _, document = place.json("status")
    finally:
        lock.end()
    assert document["fenced"][0]["returned"] is False
    assert "of c1 is under way" in document["fenced"][0]["restoring"]


def test_nothing_is_loaded_for_a_look_an_alarm_or_a_second_cut(place: Shared) -> None:
    metrics = place.path / "nvmefence.prom"
    words = place.arguments(*QUICK, "--enforce", "--metrics", str(metrics))
    running = Running([MAIN[0], "-X", "importtime", *MAIN[1:], *words], place.path)
    try:
        running.hears("SIMULATED drives through")
        before = running.text().count("import time:")
        place.fence()
        place.attach()
        running.hears("c1 is no longer back")
        until(lambda: metrics.exists() and "_total" in metrics.read_text(), "the figures")
        assert running.stop() == 0
        assert before > 50
        assert running.text().count("import time:") == before, running.text()[-3000:]
    finally:
        running.kill()


def test_the_answers_of_a_service_that_talks_json_have_the_alarm(place: Shared) -> None:
    with place.watcher("--json", *QUICK) as running:
        place.fence()
        place.attach()
        running.hears("RETURNED")
        running.stop()
        lines = [json.loads(line) for line in running.text().splitlines()]
    (alarm,) = [line for line in lines if line.get("returned")]
    assert (alarm["level"], alarm["host"], alarm["drives"][0]["serial"]) == ("error", "c1", "SIM00000")
