"""`nvmefence qualify` on slow media finds the writes that QEMU lets land after a detach, and none after a drain."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.lab import bringup, observer
from tests.lab.guest.product import Ran, hosts_toml, nvmefence
from tests.lab.guest.test_fencing import target
from tests.lab.shape import Shape

pytestmark = pytest.mark.shape("drains")
VF, NSID = 2, 2
ROUNDS, TIMES = 1, 3
"""One drain: after it, QEMU's virtual function answers slow writes only when the kernel has reset it again."""


@pytest.fixture
def set_aside(baseline: bringup.Attachments, drives: list[observer.Drive]) -> observer.Drive:
    """The first drive, whose namespaces nobody has but this machine and its view of a compute."""
    drive = drives[0]
    ours = {drive.primary.cntlid, target([drive], VF)[drive.serial]}
    with observer.Device(drive.primary.path) as device:
        for nsid, ids in device.attachments().items():
            device.detach(nsid, ids - ours)
    return drive


def qualify(drive: observer.Drive, shape: Shape, folder: Path) -> Ran:
    path = folder / "hosts.toml"
    path.write_text(hosts_toml(shape, drives=f'count = {shape.drives - 1}\nignore = ["{drive.serial}"]'))
    cntlid = target([drive], VF)[drive.serial]
    return nvmefence(
        "qualify", f"--hosts={path}", f"--drive={drive.serial}", f"--controller={cntlid}",
        f"--namespace={NSID}", "--yes-destroy-data", "--json", f"--rounds={ROUNDS}", f"--timing-rounds={TIMES}",
        "--watch=1.2", "--writes=1", "--write-size=32768",
    )  # fmt: skip


def state(drive: observer.Drive) -> tuple[dict[int, frozenset[int]], list[observer.Secondary]]:
    with observer.Device(drive.primary.path) as device:
        return device.attachments(), device.secondaries()


def of(cuts: list[dict[str, Any]], method: str) -> list[dict[str, Any]]:
    return [cut for cut in cuts if cut["method"] == method and cut["under_way"]]


@pytest.mark.limit(240)
def test_the_late_writes_of_a_detach_are_found_and_none_after_a_drain(
    set_aside: observer.Drive, shape: Shape, tmp_path: Path
) -> None:
    before = state(set_aside)
    ran = qualify(set_aside, shape, tmp_path)
    assert ran.code == 0, ran.out + ran.err
    found = ran.json
    late = [seconds for cut in of(found["cuts"], "none") for seconds in cut["late_s"]]
    assert late
    assert 0.02 < max(late) < 10
    assert not any(cut["accepted_after"] for cut in found["cuts"])
    drained = of(found["cuts"], "drain")
    assert len(drained) == ROUNDS
    assert not any(cut["late_s"] for cut in drained)
    assert all(cut["landed_before_the_read_back"] + cut["never_landed"] == cut["under_way"] for cut in drained)
    assert all(cut["offline_seen"] and cut["online_again"] for cut in drained)
    verdicts = {rule["quiesce"].partition(":")[0]: rule["verdict"] for rule in found["quiesce"]}
    assert verdicts == {"drain": "justified", "offline": "justified", "wait": "justified", "none": "ruled_out"}
    assert found["quiesce"][2]["quiesce"] in ("wait:1", "wait:2", "wait:3", "wait:4", "wait:5")
    assert {(one["action"], one["backend"]): one["rounds"] for one in found["times"]} == {
        (action, backend): TIMES for action in ("attach", "detach") for backend in ("io_uring", "ioctl")
    }
    resets = {(one["reset"], one["attached_before"]): one for one in found["resets"]}
    for attached in (True, False):
        assert resets["host", attached]["answer"] == "kept"
        assert resets["own", attached]["answer"] == "kept"
        assert resets["own", attached]["secondaries_went_offline"]
    assert found["put_back"] is True
    assert state(set_aside) == before
    print(f"late: {late}; {found['quiesce'][2]['quiesce']} is justified; seconds: {found['seconds']}")


def test_a_namespace_in_use_is_left_alone(set_aside: observer.Drive, shape: Shape, tmp_path: Path) -> None:
    block = observer.blocks(set_aside.primary)[NSID]
    fd = os.open(block, os.O_RDONLY | os.O_EXCL)  # as a mount or a volume holds it
    try:
        ran = qualify(set_aside, shape, tmp_path)
    finally:
        os.close(fd)
    assert (ran.code, f"{block} cannot be had: it is in use" in ran.json["error"]) == (6, True), ran.out
