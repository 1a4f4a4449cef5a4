"""Whatever a caller sends: a clear error of the documented shape, and nothing changed."""

import json
from typing import Any

import httpx
import pytest

from satchel.hub.settings import HubSettings
from satchel.limits import (
    ID_LENGTH_MAX,
    JSON_DEPTH_MAX,
    METADATA_BYTES_MAX,
    PAGE_ITEMS_MAX,
    REQUEST_BODY_BYTES_MAX,
    TEXT_BYTES_MAX,
)
from tests.acceptance.processes import Fleet, Process, served_hub, texts_of, until, version_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

MESSAGES = "/v1/sessions/new/messages"
LONG_ID = "i" * (ID_LENGTH_MAX + 1)


def error_of(response: httpx.Response) -> dict[str, Any]:
    """Return the error of a refusal, whose shape is the same whatever went wrong."""
    assert response.headers["content-type"] == "application/json", response.text
    (error,) = response.json().values()
    assert list(error) == ["code", "message", "hint", "retryable", "details"]
    assert error["message"].endswith("."), error
    assert isinstance(error["retryable"], bool)
    assert isinstance(error["details"], dict)
    assert ("retry-after" in response.headers) == (response.status_code in {429, 503})
    return dict(error)


async def assert_refused(hub: Fleet, status: int, code: str, method: str, path: str, **request: Any) -> dict[str, Any]:
    """Send a request and check that it is refused and left nothing behind."""
    before = await hub.get("/sessions")

    response = await hub.http.request(method, hub.url + path, **request)

    assert (response.status_code, error_of(response)["code"]) == (status, code), response.text
    assert await hub.get("/sessions") == before
    return error_of(response)


def message(**fields: Any) -> dict[str, Any]:
    return {"text": "nothing", "agent": "probe", **fields}


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


# --- the body of a message ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b'{"text": "a", "agent": "pro', id="cut short"),
        pytest.param(b'{"text": "a", "agent": "probe"} {}', id="two values"),
        pytest.param(b"\xef\xbb\xbf{}", id="byte order mark"),
        pytest.param(b"[]", id="a list"),
        pytest.param(b"null", id="null"),
        pytest.param(b'{"agent": "probe"}', id="no text"),
        pytest.param(b'{"text": null, "agent": "probe"}', id="text is null"),
        pytest.param(b'{"text": 1, "agent": "probe"}', id="text is a number"),
        pytest.param(b'{"text": "a", "agent": "probe", "priority": 1}', id="unknown field"),
        pytest.param(b'{"text": "a", "agent": "probe", "metadata": []}', id="metadata is a list"),
        pytest.param(b'{"text": "\xff", "agent": "probe"}', id="not UTF-8"),
        pytest.param(b'{"text": "\xed\xa0\x80", "agent": "probe"}', id="surrogate in UTF-8"),
        pytest.param(b'{"text": "\\ud800", "agent": "probe"}', id="half a pair in text"),
        pytest.param(b'{"text": "a", "agent": "probe", "metadata": {"k": "\\udfff"}}', id="half a pair in metadata"),
        pytest.param(b'{"text": "a", "agent": "probe", "metadata": {"\\udfff": 1}}', id="half a pair in a key"),
        pytest.param(b'{"text": "a", "agent": "probe", "metadata": {"k": NaN}}', id="NaN"),
        pytest.param(b'{"text": "a", "agent": "probe", "metadata": {"k": Infinity}}', id="infinity"),
        pytest.param(b'{"text": "a", "agent": "probe", "metadata": {"k": 1e999}}', id="infinite number"),
        pytest.param(b'{"text": "a", "agent": "probe", "metadata": {"k": %s}}' % (b"9" * 5000), id="huge integer"),
        pytest.param(b'{"text": "a", "agent": "probe", "content": %s}' % (b"[" * 100_000), id="open for ever"),
        pytest.param(
            b'{"text": "a", "agent": "probe", "metadata": {"k": %s1%s}}' % (b"[" * 5000, b"]" * 5000), id="deep"
        ),
    ],
)
async def test_a_body_that_is_not_as_documented_is_refused(shared: Fleet, body: bytes):
    headers = {"Content-Type": "application/json"}

    error = await assert_refused(shared, 400, "INVALID_REQUEST", "POST", MESSAGES, content=body, headers=headers)

    assert "body" in error["message"]


@pytest.mark.parametrize("media_type", [None, "text/plain", "application/x-www-form-urlencoded", "application/jsonp"])
async def test_another_media_type_is_refused_by_name(shared: Fleet, media_type: str | None):
    headers = {} if media_type is None else {"Content-Type": media_type}
    body = json.dumps(message()).encode()

    error = await assert_refused(shared, 415, "UNSUPPORTED_MEDIA_TYPE", "POST", MESSAGES, content=body, headers=headers)

    assert error["details"] == {"content_type": media_type or ""}


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"content": []}, 400, "NOT_SUPPORTED"),
        ({"on_busy": "interrupt"}, 400, "NOT_SUPPORTED"),
        ({"on_busy": "steer"}, 400, "NOT_SUPPORTED"),
        ({"on_busy": "Queue"}, 400, "INVALID_REQUEST"),
        ({"agent": ""}, 400, "INVALID_REQUEST"),
        ({"agent": "pro/be"}, 400, "INVALID_REQUEST"),
        ({"agent": None}, 400, "INVALID_REQUEST"),  # this hub knows two, and the session is new
        ({"agent": "nobody"}, 404, "AGENT_NOT_FOUND"),
        ({"message_id": ""}, 400, "INVALID_REQUEST"),
        ({"message_id": ".."}, 400, "INVALID_REQUEST"),
        ({"message_id": "m 1"}, 400, "INVALID_REQUEST"),
        ({"message_id": LONG_ID}, 400, "INVALID_REQUEST"),
    ],
)
async def test_a_field_that_cannot_be_served_is_refused(shared: Fleet, fields: dict[str, Any], status: int, code: str):
    await assert_refused(shared, status, code, "POST", MESSAGES, json=message(**fields))


@pytest.mark.parametrize("session", ["%2E", "%2e%2e", "a%20b", "a%00b", "%C3%A9", "%FF", LONG_ID])
async def test_a_session_id_that_is_none_is_refused(shared: Fleet, session: str):
    """Dots alone would be another path to some proxy, and control characters a second line to some log."""
    path = f"/v1/sessions/{session}/messages"

    error = await assert_refused(shared, 400, "INVALID_REQUEST", "POST", path, json=message())

    assert error["details"] == {"field": "session_id"}


async def test_a_session_keeps_its_agent_and_may_leave_it_out(shared: Fleet):
    await shared.send("kept", "nothing")

    without = await shared.http.post(f"{shared.url}/v1/sessions/kept/messages", json={"text": "nothing"})
    await assert_refused(
        shared, 409, "AGENT_MISMATCH", "POST", "/v1/sessions/kept/messages", json=message(agent="other")
    )

    assert without.status_code == 200


# --- bounds -----------------------------------------------------------------------------------------


def _text(size: int) -> dict[str, Any]:
    return message(text="nothing " + "é" * ((size - 8) // 2) + "x" * (size % 2))


def _metadata(size: int) -> dict[str, Any]:
    return message(metadata={"k": "x" * (size - len('{"k":""}'))})


def _depth(depth: int) -> dict[str, Any]:
    return message(metadata={"k": nested(depth - 1)})


def _id(length: int) -> dict[str, Any]:
    return message(message_id="i" * length)


@pytest.mark.parametrize(
    ("sized", "bound", "status", "code"),
    [
        (_text, TEXT_BYTES_MAX, 413, "MESSAGE_TOO_LARGE"),
        (_metadata, METADATA_BYTES_MAX, 413, "MESSAGE_TOO_LARGE"),
        (_depth, JSON_DEPTH_MAX, 400, "INVALID_REQUEST"),
        (_id, ID_LENGTH_MAX, 400, "INVALID_REQUEST"),
    ],
)
async def test_a_message_at_a_bound_is_taken_and_one_past_it_refused(shared: Fleet, sized, bound, status, code):
    """A bound that is off by one is found by the customer whose message is just as long."""
    await assert_refused(shared, status, code, "POST", MESSAGES, json=sized(bound + 1))

    at_bound = await shared.post(f"bound{sized.__name__}", **sized(bound))

    assert at_bound.json()["status"] == "committed"
    assert at_bound.json()["text"] == sized(bound)["text"]
    assert at_bound.json()["metadata"] == sized(bound).get("metadata")


async def test_a_body_at_its_bound_is_taken_and_one_past_it_refused(shared: Fleet):
    headers = {"Content-Type": "application/json; charset=utf-8", "Accept": "application/json"}
    body = json.dumps(message()).encode()
    padding = b" " * (REQUEST_BODY_BYTES_MAX - len(body))

    await assert_refused(
        shared, 413, "MESSAGE_TOO_LARGE", "POST", MESSAGES, content=body + padding + b" ", headers=headers
    )
    taken = await shared.http.post(f"{shared.url}/v1/sessions/padded/messages", content=body + padding, headers=headers)

    assert taken.json()["status"] == "committed"


async def test_every_character_of_text_and_every_number_of_metadata_comes_back(shared: Fleet):
    """What is not refused is not changed either: no normalising, no float for a long integer."""
    metadata = {"big": 10**300, "exact": 2**63 + 1, "small": -5e-324, "nul": "\0", "line\u2028": "\U0001f9f3"}
    text = "say \0 \u2028 \r\n \U0001f9f3 e\u0301"

    answer = (await shared.post("faithful", text, message_id="m1", metadata=metadata)).json()
    stored = await shared.get("/sessions/faithful/messages/m1")

    assert (answer["text"], answer["metadata"]) == (text, metadata)
    assert stored == answer
    assert (await shared.get("/sessions/faithful"))["metadata"] == metadata


# --- reading ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v1/sessions/nobody", 404, "SESSION_NOT_FOUND"),
        ("/v1/sessions/nobody/messages", 404, "SESSION_NOT_FOUND"),
        ("/v1/sessions/nobody/messages/m1", 404, "SESSION_NOT_FOUND"),
        ("/v1/sessions/nobody/versions/1/snapshot", 404, "SESSION_NOT_FOUND"),
        ("/v1/sessions/known/messages/m9", 404, "MESSAGE_NOT_FOUND"),
        ("/v1/sessions/known/versions/2/snapshot", 404, "VERSION_NOT_FOUND"),
        ("/v1/sessions/known/versions/0/snapshot", 404, "VERSION_NOT_FOUND"),
        ("/v1/sessions/known/versions/-1/snapshot", 400, "INVALID_REQUEST"),
        ("/v1/sessions/known/versions/one/snapshot", 400, "INVALID_REQUEST"),
        (f"/v1/sessions/known/versions/{2**63}/snapshot", 400, "INVALID_REQUEST"),
        ("/v1/sessions/known/messages/m1?after=-1", 400, "INVALID_REQUEST"),
        ("/v1/sessions/known/messages/m1?after=1.5", 400, "INVALID_REQUEST"),
        (f"/v1/sessions/known/messages/m1?after={2**63}", 400, "INVALID_REQUEST"),
        ("/v1/sessions/known/messages?before=x", 400, "INVALID_REQUEST"),
        ("/v1/sessions/known/messages?limit=0", 400, "INVALID_REQUEST"),
        ("/v1/sessions?limit=-1", 400, "INVALID_REQUEST"),
        ("/v1/sessions?limit=all", 400, "INVALID_REQUEST"),
        (f"/v1/sessions?limit={PAGE_ITEMS_MAX + 1}", 400, "INVALID_REQUEST"),
        ("/v1/sessions?cursor=a%2Fb", 400, "INVALID_REQUEST"),
        ("/v1/sessions/known/messages/%2E%2E", 400, "INVALID_REQUEST"),
        (f"/v1/sessions/known/messages/{LONG_ID}", 400, "INVALID_REQUEST"),
        ("/", 404, "INVALID_REQUEST"),
        ("/v2/sessions", 404, "INVALID_REQUEST"),
        ("/v1/sessions/known/versions", 404, "INVALID_REQUEST"),
        ("/v1/sessions/known/messages/m1/cancel", 405, "INVALID_REQUEST"),
    ],
)
async def test_a_question_without_an_answer_says_why(shared: Fleet, path: str, status: int, code: str):
    await shared.send("known", "nothing", message_id="m1")

    await assert_refused(shared, status, code, "GET", path)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/v1/sessions/known/messages", {"GET", "HEAD", "POST"}),
        ("PATCH", "/v1/sessions/known", {"GET", "HEAD"}),
        ("POST", "/v1/workers", {"GET", "HEAD"}),
    ],
)
async def test_a_method_that_is_not_offered_says_which_are(shared: Fleet, method: str, path: str, allowed: set[str]):
    await assert_refused(shared, 405, "INVALID_REQUEST", method, path)

    response = await shared.http.request(method, shared.url + path)

    assert allowed >= set(response.headers["allow"].split(", ")) > set()


@pytest.mark.parametrize("header", [{"Accept": "image/png"}, {"Last-Event-ID": "the last"}])
async def test_a_header_that_asks_for_what_is_not_there_is_refused(shared: Fleet, header: dict[str, str]):
    await shared.send("known", "nothing", message_id="m1")

    await assert_refused(shared, 400, "INVALID_REQUEST", "GET", "/v1/sessions/known/messages/m1", headers=header)


async def test_a_cancel_with_a_body_is_refused(shared: Fleet):
    await shared.send("known", "nothing", message_id="m1")
    path = "/v1/sessions/known/messages/m1/cancel"

    await assert_refused(shared, 400, "INVALID_REQUEST", "POST", path, json={"reason": "bored"})
    await assert_refused(shared, 415, "UNSUPPORTED_MEDIA_TYPE", "POST", path, data={"reason": "bored"})


async def test_the_hub_and_its_worker_are_well_after_all_of_this(shared: Fleet):
    """The last in this file: none of the requests above was a fault of the hub's, by its own log."""
    assert texts_of(await shared.send("well", "add one")) == ["1 notes"]
    assert shared.hub is not None
    assert "Traceback" not in shared.hub.output
    assert " ERROR " not in shared.hub.output


# --- nobody to run it -----------------------------------------------------------------------------------


async def test_a_message_without_a_worker_ends_in_bounded_time_and_can_be_sent_again(tmp_path):
    """It was accepted, so it has an end and a place in the transcript, and its ID still means this message."""
    async with served_hub(tmp_path / "hub.db", settings=HubSettings(worker_wait_s=0.2)) as url:
        hub = Fleet(tmp_path)
        hub.url = url
        try:
            await (await hub.start_worker()).stop()
            await until(lambda: _has_workers(hub, 0))
            refused = await hub.post("alice", "add one", message_id="m1")
            (row,) = await hub.transcript("alice")
            await hub.start_worker()
            events = await hub.send("alice", "add one", message_id="m1")
        finally:
            await hub.stop()

    assert (refused.status_code, error_of(refused)["code"], error_of(refused)["retryable"]) == (503, "NO_WORKER", True)
    assert (row["status"], row["version"], row["error"]["code"]) == ("failed", None, "NO_WORKER")
    assert (texts_of(events), version_of(events)) == (["1 notes"], 1)


async def _has_workers(hub: Fleet, count: int) -> bool:
    return len(await hub.list_workers()) == count


async def test_a_worker_at_its_slots_counts_as_none(tmp_path):
    async with served_hub(tmp_path / "hub.db", settings=HubSettings(worker_wait_s=0.2)) as url:
        hub = Fleet(tmp_path)
        hub.url = url
        try:
            await hub.start_worker("probe.py", "--slots", "1")
            async with hub.held("alice", "m1"):
                refused = await hub.post("bob", "nothing")
        finally:
            await hub.stop()

    assert (refused.status_code, error_of(refused)["code"]) == (503, "NO_WORKER")
    assert "at their slots" in error_of(refused)["message"]


async def test_a_command_that_cannot_work_says_what_to_do(tmp_path):
    """The command line refuses as the API does: one line of what, one of what to do, and status 1."""
    process = Process("worker", str(tmp_path / "nothing.py"), "--hub", "ftp://127.0.0.1")
    await process.start()

    assert await process.ended() == 1
    assert process.output.startswith("error: 'ftp://127.0.0.1' is not a hub's base URL.\n  It looks like")
