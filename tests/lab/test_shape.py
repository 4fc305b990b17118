"""A shape says what QEMU is told, and refuses what cannot be built."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from tests.lab.shape import SHAPES, Kind, Medium, Shape, ShapeError, images, qemu_arguments

FOLDER = Path("/run/lab")


def devices(shape: Shape, model: str) -> list[str]:
    return [argument for argument in qemu_arguments(shape, FOLDER) if argument.startswith(f"{model},")]


def drives(shape: Shape) -> list[str]:
    arguments = qemu_arguments(shape, FOLDER)
    return [value for option, value in itertools.pairwise(arguments) if option == "-drive"]


def test_a_rabbit_has_one_controller_with_functions_per_drive() -> None:
    shape = SHAPES["rabbit"]
    controllers = devices(shape, "nvme")
    assert len(controllers) == len(devices(shape, "nvme-subsys")) == 18
    assert all(",sriov_max_vfs=17,sriov_vq_flexible=34,sriov_vi_flexible=34," in c for c in controllers)
    assert len(devices(shape, "nvme-ns")) == 18 * 4


def test_ports_share_serial_and_subsystem() -> None:
    controllers = devices(Shape(drives=1, kind=Kind.PORTS, controllers=3), "nvme")
    assert len(controllers) == 3
    assert all(",subsys=s0,serial=RABBIT00" in controller for controller in controllers)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_every_function_has_its_own_root_port(shape: Shape) -> None:
    ports = devices(shape, "pcie-root-port")
    assert len(ports) == len(devices(shape, "nvme")) == shape.live
    addresses = {option for port in ports for option in port.split(",") if option.startswith("addr=")}
    assert len(addresses) == len(ports)


def test_without_secondaries_there_is_no_sriov() -> None:
    assert "sriov" not in " ".join(qemu_arguments(Shape(secondaries=0), FOLDER))


def test_detached_and_private_are_said_of_the_right_namespaces() -> None:
    namespaces = devices(Shape(drives=1, namespaces=2, private=True, detached=True), "nvme-ns")
    options = [n.split(",", 4)[4].rsplit(",", 1) for n in namespaces]
    assert [shared for shared, _ in options] == ["shared=on,detached=on"] * 2 + ["shared=off"]
    assert len({identity for _, identity in options}) == 3, "each has an identity of its own"
    assert [n.split(",")[3] for n in namespaces] == ["nsid=1", "nsid=2", "nsid=3"]


def test_only_the_throttled_drive_is_slow() -> None:
    media = drives(Shape(drives=2, namespaces=1, throttled=(1,), throttle_bps=4096))
    assert ["throttling.bps-write=4096" in medium for medium in media] == [False, True]


def test_files_are_where_the_run_is_and_commas_survive() -> None:
    shape = Shape(drives=1, namespaces=1, medium=Medium.FILE)
    folder = Path("/run/a,b")
    assert images(shape, folder) == {(0, 1): folder / "drive00-ns001.img"}
    assert "file=/run/a,,b/drive00-ns001.img,format=raw" in " ".join(qemu_arguments(shape, folder))


def test_data_that_nobody_reads_needs_no_files() -> None:
    assert images(Shape(), FOLDER) == {}
    assert all(medium.startswith("driver=null-co,") for medium in drives(Shape()))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_shape_survives_the_way_into_the_guest(shape: Shape) -> None:
    assert Shape.from_json(json.loads(json.dumps(shape.as_json()))) == shape


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"drives": 0}, "drives is 0, it must be 1 to 18"),
        ({"drives": 19}, "drives is 19"),
        ({"secondaries": 18}, "secondaries is 18"),
        ({"namespaces": 200, "first_nsid": 58}, "up to 257, QEMU knows 256"),
        ({"throttled": (2,)}, "throttled drive 2 does not exist"),
        ({"bound": (6,)}, "bound VF 6 does not exist"),
        ({"bound": (0,)}, "bound VF 0 does not exist"),
        ({"attached": (9,)}, "attached controller 9 does not exist"),
        ({"kind": Kind.PORTS, "bound": (1,)}, "bound is for virtual functions"),
        ({"detached": True, "attached": (1,)}, "exclude each other"),
        ({"kind": Kind.PORTS, "drives": 18, "controllers": 4}, "72 PCI functions"),
    ],
)
def test_what_cannot_be_built_is_refused(change: dict[str, Any], text: str) -> None:
    with pytest.raises(ShapeError, match=text):
        dataclasses.replace(Shape(), **change)


def test_a_ladder_has_as_many_namespaces_on_each_drive_as_it_says() -> None:
    shape = Shape(drives=3, namespaces=4, ladder=(1, 4, 2), private=True, medium=Medium.FILE)
    told = [option for n in devices(shape, "nvme-ns") for option in n.split(",") if option.startswith("bus=")]
    assert [told.count(f"bus=c{drive}-0") for drive in range(3)] == [2, 5, 3]
    assert sum(n.count("shared=off") for n in devices(shape, "nvme-ns")) == 3
    assert len(images(shape, FOLDER)) == len(drives(shape)) == 10
    for wrong in ((1, 4), (1, 2, 3)):
        with pytest.raises(ShapeError, match="ladder"):
            Shape(drives=3, namespaces=4, ladder=wrong)
