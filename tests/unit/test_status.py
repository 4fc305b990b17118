"""Status codes: what a person reads, and whether a second try makes sense."""

from __future__ import annotations

import errno

import pytest

from nvmefence.nvme import status
from nvmefence.nvme.transport import NO_ANSWER


@pytest.mark.parametrize(
    ("value", "code"),
    [(0, 0), (0x411A, 0x11A), (0x411A | 0x3800, 0x11A), (0x370, 0x370), (-errno.EINTR, -errno.EINTR)],
)
def test_code_drops_dnr_more_and_crd_and_keeps_errno(value: int, code: int) -> None:
    assert status.code(value) == code


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "Successful Completion"),
        (0x411A, "Namespace Not Attached (11Ah)"),
        (0x11F, "Invalid Controller Identifier (11Fh)"),
        (0x127, "Namespace Attachment Limit Exceeded (127h)"),
        (0x1FE, "Command Specific Status FEh (1FEh)"),
        (0x4FF, "status type 4 FFh (4FFh)"),
        (0x7C1, "Vendor Specific Status C1h (7C1h)"),
        (NO_ANSWER, "no answer"),
        (-errno.ENODEV, "ENODEV: No such device"),
    ],
)
def test_describe(value: int, text: str) -> None:
    assert status.describe(value) == text


def test_an_interrupted_command_is_said_to_be_of_unknown_outcome() -> None:
    assert "unknown" in status.describe(-errno.EINTR)


def test_an_errno_without_a_name_is_still_described() -> None:
    assert status.describe(-99999).startswith("99999: ")


@pytest.mark.parametrize(
    ("value", "retry"),
    [
        (0, False),
        (0x021, True),
        (0x4021, False),
        (0x11A, True),
        (status.INVALID_FIELD, False),
        (status.INVALID_OPCODE, False),
        (status.NAMESPACE_PRIVATE, False),
        (status.HOST_PATH_ERROR, True),
        (-errno.EINTR, True),
        (-errno.EAGAIN, True),
        (-errno.ENODEV, False),
        (-errno.EACCES, False),
        (NO_ANSWER, False),
    ],
)
def test_may_retry(value: int, retry: bool) -> None:
    assert status.may_retry(value) is retry


@pytest.mark.parametrize(("value", "index"), [(0, 0), (0x0821, 1), (0x1021, 2), (0x5821, 3), (-errno.EINTR, 0)])
def test_retry_delay_index(value: int, index: int) -> None:
    assert status.retry_delay_index(value) == index


def test_advice_is_there_where_a_person_can_do_something() -> None:
    assert "root" in status.advice(-errno.EACCES)
    assert "removed" in status.advice(-errno.ENODEV)
    assert "power" in status.advice(NO_ANSWER)
    assert "host map" in status.advice(0x4000 | status.CONTROLLER_LIST_INVALID)
    assert status.advice(0) == status.advice(0x1FE) == status.advice(-errno.EIO) == ""
