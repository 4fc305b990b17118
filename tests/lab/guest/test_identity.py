"""A namespace that is another one than on record is left out of a restore, and named; the rest is given back."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nvmefence.errors import Exit
from tests.lab import observer
from tests.lab.guest.product import Ran, hosts_toml, nvmefence
from tests.lab.guest.test_fencing import target
from tests.lab.guest.watching import Observed, reaches
from tests.lab.shape import Shape

pytestmark = pytest.mark.shape("small")
HOST, VF = "compute-2", 4
"""No driver of this guest is bound to that virtual function, so that none resets it when it goes offline."""
Identity = dict[str, Any]


def other_eui64(identity: Identity) -> Identity:
    """The namespace that was taken was another one."""
    assert identity["eui64"]
    return {**identity, "eui64": f"{int(identity['eui64'], 16) ^ 1:016x}"}


def other_size(identity: Identity) -> Identity:
    """The namespace that was taken had half the size."""
    return {**identity, "size": identity["size"] // 2}


def on_record(path: Path) -> dict[tuple[str, int], Identity]:
    """Return the namespaces on record, by serial number and namespace id, with their identities."""
    record = json.loads(path.read_bytes()) if path.exists() else {"drives": []}
    return {
        (drive["serial"], taken["nsid"]): taken["identity"]
        for drive in record["drives"]
        for taken in drive["taken"]
    }


def change(path: Path, identities: dict[tuple[str, int], Identity]) -> None:
    """Have the record tell of other namespaces."""
    record = json.loads(path.read_bytes())
    for drive in record["drives"]:
        for taken in drive["taken"]:
            taken["identity"] = identities.get((drive["serial"], taken["nsid"]), taken["identity"])
    path.write_text(json.dumps(record))


def test_a_namespace_that_changed_its_identity_is_left_out_of_a_restore_and_named_and_stays_on_record(
    shape: Shape, drives: list[observer.Drive], observed: Observed, tmp_path: Path
) -> None:
    """The emulator can neither make nor replace a namespace: what changes is the record, which comes to the same.

    One namespace has another EUI64 than on record, one on another drive another size.
    """
    (tmp_path / "hosts.toml").write_text(hosts_toml(shape))
    (tmp_path / "responses").mkdir()
    record = tmp_path / "fenced" / f"{HOST}.json"
    victim = target(drives, VF)

    def run(command: str, *more: str) -> Ran:
        paths = ["--hosts", str(tmp_path / "hosts.toml"), "--records", str(tmp_path / "fenced")]
        return nvmefence(command, "--host", HOST, *paths, *more)

    def restore(*more: str) -> Ran:
        return run("restore", "--response-dir", str(tmp_path / "responses"), *more)

    before = observed()
    assert run("detach", "--quiesce", "none").code == Exit.OK
    assert not reaches(observed(), victim)
    true = on_record(record)
    assert {(drive.serial, nsid) for drive in drives for nsid in (1, 2, 3)} == true.keys()
    changes: dict[tuple[str, int], Callable[[Identity], Identity]] = {
        (drives[0].serial, 2): other_eui64,
        (drives[1].serial, 3): other_size,
    }
    change(record, {key: make(true[key]) for key, make in changes.items()})

    ran = restore("--json")
    assert ran.code == Exit.NOT_RESTORED, ran.out + ran.err
    left = {(one["serial"], one["what"]): one["reason"] for one in ran.json["result"]["left"]}
    named = {key: f"namespace {key[1]} for controller {victim[key[0]]}" for key in changes}
    assert left.keys() == {(serial, named[serial, nsid]) for serial, nsid in changes}
    assert f"EUI64 {true[drives[0].serial, 2]['eui64']}" in left[drives[0].serial, named[drives[0].serial, 2]]
    assert re.search("another size now", left[drives[1].serial, named[drives[1].serial, 3]])
    assert all(f"{serial}: {text}" in ran.json["message"] for (serial, _), text in named.items())
    partly = observed()
    for serial, by_nsid in partly.items():
        for nsid, ids in by_nsid.items():
            kept = {victim[serial]} if (serial, nsid) in changes else set()
            assert ids == before[serial][nsid] - kept, f"{serial} namespace {nsid}"
    assert on_record(record) == {key: make(true[key]) for key, make in changes.items()}, "the rest is given back"

    change(record, true)
    ran = restore()
    assert ran.code == Exit.OK, ran.out + ran.err
    assert observed() == before
    assert not record.exists()
