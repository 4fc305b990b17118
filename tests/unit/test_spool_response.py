"""Only a well-formed response to this request for this node is believed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nvmefence.spool import response
from nvmefence.spool.errors import Invalid, Malformed, NotThisRequest
from nvmefence.spool.response import Response, answer_to

ID = "550e8400-e29b-41d4-a716-446655440000"
NODE = "compute-node-3"
FOUNDING: dict[str, Any] = {
    "request_id": ID,
    "success": True,
    "action_performed": "reboot",
    "target_node": NODE,
    "message": "Successfully fenced node by deleting 1 GFS2 storage groups",
    "timestamp": "2025-10-20T14:30:15Z",
}


def encoded(**changes: Any) -> bytes:
    return json.dumps(FOUNDING | changes).encode()


def answer(**changes: Any) -> Response:
    return Response(**(FOUNDING | changes))


def test_the_founding_document_s_response_is_believed() -> None:
    believed = answer_to(encoded(), ID, NODE)
    assert believed.success is True
    assert believed.message == FOUNDING["message"]


def test_a_failure_is_read_as_a_failure() -> None:
    assert answer_to(encoded(success=False), ID, NODE).success is False
    assert answer_to(encoded(success=False, status="error"), ID, NODE).success is False


@pytest.mark.parametrize("success", ["true", "True", 1, 1.0, 0, None, [], [True], {"success": True}, "false", ""])
def test_success_is_a_json_boolean_or_the_response_is_invalid(success: object) -> None:
    with pytest.raises(Invalid):
        answer_to(encoded(success=success), ID, NODE)


@pytest.mark.parametrize("key", sorted(FOUNDING))
def test_each_of_the_six_fields_is_needed(key: str) -> None:
    document = {name: value for name, value in FOUNDING.items() if name != key}
    with pytest.raises(Invalid, match=key):
        answer_to(json.dumps(document).encode(), ID, NODE)


@pytest.mark.parametrize("key", sorted(set(FOUNDING) - {"success"}))
@pytest.mark.parametrize("value", [None, 1, True, [], {}])
def test_each_text_is_a_text(key: str, value: object) -> None:
    with pytest.raises(Invalid, match=key):
        answer_to(encoded(**{key: value}), ID, NODE)


@pytest.mark.parametrize("status", ["error", "Success", "", None, True, 1])
def test_success_against_its_own_status_is_invalid(status: object) -> None:
    with pytest.raises(Invalid, match="status"):
        answer_to(encoded(status=status), ID, NODE)


@pytest.mark.parametrize("change", [{"request_id": ID.upper()}, {"request_id": ""}, {"target_node": NODE + "0"}])
def test_an_answer_to_something_else_is_not_ours(change: dict[str, str]) -> None:
    with pytest.raises(NotThisRequest):
        answer_to(encoded(**change), ID, NODE)


def test_no_prefix_of_a_response_is_believed() -> None:
    whole = encoded()
    for length in range(len(whole)):
        with pytest.raises(Malformed):
            answer_to(whole[:length], ID, NODE)


def test_our_response_has_the_six_fields_and_those_beside_them() -> None:
    document = json.loads(answer(evidence={"drives": []}, recorder_node="rabbit").encode())
    assert {key: document[key] for key in FOUNDING} == FOUNDING
    assert document["success"] is True
    assert {key: document[key] for key in sorted(set(document) - set(FOUNDING))} == {
        "action": "reboot",
        "evidence": {"drives": []},
        "recorder_node": "rabbit",
        "status": "success",
    }
    assert json.loads(answer(success=False).encode())["status"] == "error"


def test_our_response_is_read_back_as_it_was() -> None:
    ours = answer(action="off", recorder_node="r", evidence={"a": [1]}, message="é\n")
    assert response.parse(ours.encode()).to_json() == ours.to_json()


@pytest.mark.parametrize("success", ["true", 1, None])
def test_a_response_cannot_be_made_with_something_like_success(success: Any) -> None:
    with pytest.raises(TypeError):
        answer(success=success)


def test_evidence_too_large_to_be_read_is_left_out_and_the_rest_stands() -> None:
    data = answer(evidence=["x" * response.RESPONSE_LIMIT]).encode()
    assert len(data) <= response.RESPONSE_LIMIT
    believed = answer_to(data, ID, NODE)
    assert believed.success is True
    assert "too large" in believed.evidence["omitted"]


def test_times_are_written_in_utc() -> None:
    assert response.timestamp(1760970615.9) == "2025-10-20T14:30:15Z"
