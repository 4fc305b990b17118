"""`nvmefence hosts import` as a person runs it: files and standard input in, a map out, and nothing overwritten."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from nvmefence.inventory import hostfile
from tests.nnf.resources import COMPUTES, SERIALS, listed, node, system
from tests.system.place import REMOVED, Place

OWN_MAP = "version = 1\n[drives]\ncount = 1\n[hosts.mine]\nslot = 0\n"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(tmp_path)
    (tmp_path / "system.yaml").write_text(yaml.safe_dump(system()))
    (tmp_path / "node.json").write_text(json.dumps(node()))
    return made


def imported(place: Place, *words: str) -> subprocess.CompletedProcess[str]:
    return place.run("hosts", "import", "--nnf", *words)


def test_what_is_imported_fences_the_computes(place: Place) -> None:
    done = imported(place, "system.yaml", "node.json")
    assert (done.returncode, done.stderr) == (0, "")
    place.write(hosts=done.stdout)
    assert place.run("check").returncode == 0
    assert place.run("detach", "--host", "c2").returncode == 0
    assert not any(3 in ids for drive in place.attached().values() for ids in drive.values())


def test_a_list_comes_through_a_pipe(place: Place) -> None:
    done = subprocess.run(
        place.command("hosts", "import", "--nnf", "-"), cwd=place.path, input=json.dumps(listed(system(), node())),
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert "in standard input" in done.stdout


def test_the_drives_are_asked_whether_the_map_is_right(place: Place) -> None:
    done = imported(place, "node.json", "--check")
    assert done.returncode == 0
    assert (
        "# SIMULATED: Checked on 3 live drives: every slot is the virtual function that it should be."
        in done.stdout
    )
    code, document = place.json("hosts", "import", "--nnf", "node.json", "--check")
    assert (code, document["hosts"]["c2"]["slot"], document["serials"]) == (0, 1, list(SERIALS))


def test_a_slot_that_the_drives_do_not_have_is_not_given_out(place: Place) -> None:
    (place.path / "node.json").write_text(json.dumps(node({0: "c1", 7: "c8"}, slots=8)))
    done = imported(place, "node.json", "--check", "--output", "new.toml")
    assert (done.returncode, (place.path / "new.toml").exists()) == (9, False)
    assert "c8: virtual function 9 does not exist on this drive (it has 5)" in done.stdout
    assert "version = 1" not in done.stdout


@pytest.mark.parametrize("serials", [("SIM00000", "OTHER", "SIM00002"), (*SERIALS, "SIM00003")])
def test_a_drive_that_is_not_there_is_no_reason_to_leave_it_out(place: Place, serials: tuple[str, ...]) -> None:
    (place.path / "node.json").write_text(json.dumps(node(COMPUTES, serials)))
    code, document = place.json("hosts", "import", "--nnf", "node.json", "--check")
    assert (code, document["map"]) == (9, None)
    missing = serials[1] if len(serials) == 3 else "SIM00003"
    assert f"drive {missing} missing" in [finding["text"] for finding in document["findings"]]


def test_a_drive_that_does_not_answer_is_a_reason_as_well(place: Place) -> None:
    place.write((place.path / "fleet.toml").read_text() + REMOVED.replace("GONE", "SIM00001"))
    assert imported(place, "node.json", "--check").returncode == 9


def test_nothing_is_sent_to_a_drive_without_being_asked_to(place: Place) -> None:
    (place.path / "fleet.toml").unlink()
    assert imported(place, "node.json").returncode == 0


def test_a_map_that_is_there_is_replaced_only_by_force_and_whole(place: Place) -> None:
    target = place.path / "own.toml"
    target.write_text(OWN_MAP)
    done = imported(place, "node.json", "--output", "own.toml")
    assert (done.returncode, target.read_text()) == (11, OWN_MAP)
    assert "own.toml is there already; it was left as it is" in done.stderr
    before = target.stat().st_ino
    done = imported(place, "node.json", "--output", "own.toml", "--force")
    assert done.returncode == 0
    assert list(hostfile.load(target).hosts) == ["c1", "c2"]
    assert target.stat().st_ino != before
    assert not [name for name in os.listdir(place.path) if name.startswith(".own")]


def test_a_link_is_not_followed_out_of_its_directory(place: Place, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text(OWN_MAP)
    (tmp_path / "link.toml").symlink_to("elsewhere")
    assert imported(place, "node.json", "--output", "link.toml").returncode == 11
    assert imported(place, "node.json", "--output", "link.toml", "--force").returncode == 0
    assert (tmp_path / "elsewhere").read_text() == OWN_MAP


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["none.json"], "cannot read none.json: No such file"),
        (["."], "cannot read .: Is a directory"),
        (["-", "-"], "standard input (-) can be read once only"),
        (["system.yaml"], "nothing says which drives rabbit-1 has"),
        (["node.json", "--rabbit", "r9"], "there is no Rabbit r9"),
        (["node.json", "--output", "no/such/place"], "cannot write no/such/place: No such file"),
        (["binary"], "binary: not UTF-8 at byte 0"),
    ],
)
def test_what_cannot_be_done_is_said_with_a_code_of_its_own(place: Place, words: list[str], says: str) -> None:
    (place.path / "binary").write_bytes(b"\xff\xfe")
    done = imported(place, *words)
    assert (done.returncode, done.stdout) == (11, "")
    assert says in done.stderr


def test_a_refusal_is_one_object_for_a_program(place: Place) -> None:
    code, document = place.json("hosts", "import", "--nnf", "none.json")
    assert (code, document["exit"]) == (11, 11)
    assert "cannot read none.json" in document["error"]
