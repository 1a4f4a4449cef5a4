"""Who gets in: no web page to a developer's hub, nobody without a key to any other."""

import asyncio
import json
import pathlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests.acceptance.processes import Fleet, Process, run, texts_of, version_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

FOREIGN = ["https://evil.example", "null", "http://127.0.0.1:1", "http://localhost.evil.example"]
"""A page on the web, in a sandboxed frame, of another program on this machine, with a name that begins like ours."""

BODIES: list[dict[str, Any]] = [
    {"content": b'{"text": "add theirs", "agent": "probe"}', "headers": {"Content-Type": "text/plain"}},
    {"content": b'{"text": "add theirs", "agent": "probe"}'},
    {"data": {"text": "add theirs", "agent": "probe"}},
    {"files": {"text": b"add theirs"}},
    {"json": {"text": "add theirs", "agent": "probe"}},
]
"""What a page can post: without asking first (fetch as text, a blob, both kinds of form), and after a preflight."""


def messages(hub: Fleet, session: str = "alice") -> str:
    return f"{hub.url}/v1/sessions/{session}/messages"


def link(hub: Fleet) -> str:
    return hub.url.replace("http://", "ws://") + "/v1/worker"


def code_of(response: httpx.Response) -> str:
    return str(response.json()["error"]["code"])


async def link_refusal(url: str, **how: Any) -> tuple[int, str]:
    """Try to open the link; return the status and the error's code that refused it."""
    with pytest.raises(InvalidStatus) as refused:
        async with connect(url, proxy=None, **how):
            pass
    response = refused.value.response
    return response.status_code, json.loads(response.body or b"")["error"]["code"]


# --- a hub on loopback without keys ---------------------------------------------------------------


@pytest.mark.parametrize("origin", FOREIGN)
@pytest.mark.parametrize("body", BODIES, ids=["text", "no type", "form", "multipart", "json"])
async def test_a_page_of_another_origin_cannot_post_a_message(shared: Fleet, origin: str, body: dict[str, Any]):
    """Any page in the developer's browser can reach 127.0.0.1; none may make an agent act."""
    await shared.send("alice", "add mine", message_id="m1")
    request = {**body, "headers": {**body.get("headers", {}), "Origin": origin}}

    response = await shared.http.post(messages(shared), **request)

    assert (response.status_code, code_of(response)) == (403, "PERMISSION_DENIED")
    assert (await shared.get("/sessions/alice"))["head"] == 1


@pytest.mark.parametrize("body", BODIES[:4], ids=["text", "no type", "form", "multipart"])
async def test_what_a_page_can_send_without_asking_is_no_message_even_without_an_origin(shared: Fleet, body):
    """A second line: a browser that leaves Origin out cannot send JSON without a preflight, which is not answered."""
    response = await shared.http.post(messages(shared, "new"), **body)

    assert (response.status_code, code_of(response)) == (415, "UNSUPPORTED_MEDIA_TYPE")


async def test_a_preflight_is_not_answered(shared: Fleet):
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}

    response = await shared.http.options(messages(shared), headers={"Origin": "https://evil.example", **asked})

    assert response.status_code == 405
    assert not [name for name in response.headers if name.startswith("access-control")]


async def test_a_page_of_another_origin_cannot_cancel(shared: Fleet):
    """It needs no body, so it needs no media type that a form cannot have."""
    async with shared.held("busy", "m1"):
        cancelled = await shared.http.post(
            f"{messages(shared, 'busy')}/m1/cancel", headers={"Origin": "https://evil.example"}
        )

    assert (cancelled.status_code, code_of(cancelled)) == (403, "PERMISSION_DENIED")
    assert (await shared.get("/sessions/busy/messages/m1"))["status"] == "committed"


async def test_a_page_can_read_nothing_of_what_it_may_ask_for(shared: Fleet):
    """A read may be asked for, as by a link that is clicked; no header lets the page's script see the answer."""
    response = await shared.http.get(f"{shared.url}/v1/sessions", headers={"Origin": "https://evil.example"})

    assert not [name for name in response.headers if name.startswith("access-control")]


@pytest.mark.parametrize("origin", [*FOREIGN, "the hub's own"])
async def test_no_page_can_open_the_link(shared: Fleet, origin: str):
    """WebSockets know no same-origin rule: who opens the link as a worker is sent sessions."""
    own = shared.url if origin == "the hub's own" else origin

    assert await link_refusal(link(shared), origin=own) == (403, "PERMISSION_DENIED")


async def test_a_name_that_was_pointed_at_this_machine_opens_nothing(shared: Fleet):
    """DNS rebinding: the page's own name leads here, so that its requests are of its own origin."""
    host, _, port = shared.url.removeprefix("http://").partition(":")
    there = f"evil.example:{port}"
    headers = {"Host": there, "Origin": f"http://{there}"}

    reads = await shared.http.get(f"{shared.url}/v1/sessions", headers={"Host": there})
    writes = await shared.http.post(messages(shared, "new"), json={"text": "x", "agent": "probe"}, headers=headers)
    opens = await link_refusal(f"ws://{there}/v1/worker", host=host, port=int(port))

    assert [reads.status_code, writes.status_code, opens[0]] == [403, 403, 403]
    assert {code_of(reads), code_of(writes), opens[1]} == {"PERMISSION_DENIED"}


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
async def test_a_program_and_a_page_of_the_hubs_own_are_served(shared: Fleet, name: str):
    url = shared.url.replace("127.0.0.1", name)
    body = {"text": "add mine", "agent": "probe"}

    by_program = await shared.http.post(f"{url}/v1/sessions/{name}/messages", json=body)
    by_page = await shared.http.post(f"{url}/v1/sessions/{name}/messages", json=body, headers={"Origin": url})

    assert [by_program.status_code, by_page.status_code] == [200, 200]
    assert (await shared.get(f"/sessions/{name}"))["head"] == 2


# --- keys -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def key_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    folder = tmp_path_factory.mktemp("keys")
    files = {name: folder / f"{name}.key" for name in ("api", "worker")}
    for name, file in files.items():
        file.write_text(f"the-{name}-key\n")
    return files


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def locked(tmp_path_factory: pytest.TempPathFactory, key_files: dict[str, pathlib.Path]) -> AsyncIterator[Fleet]:
    """A hub on every address, and a worker, both with keys from files; its own client presents the caller's."""
    hub = Fleet(tmp_path_factory.mktemp("locked"))
    hub.http.headers["Authorization"] = "Bearer the-api-key"
    port_of_all = ("--host", "0.0.0.0", "--port", "0", "--store", str(hub.folder / "hub.db"))
    files = ("--api-key-file", str(key_files["api"]), "--worker-key-file", str(key_files["worker"]))
    hub.hub = Process("hub", *port_of_all, *files)
    try:
        await hub.hub.start()
        hub.url = (await hub.hub.saw(r"hub +(http://\S+)"))[1].replace("0.0.0.0", "127.0.0.1")
        await hub.start_worker("probe.py", "--key-file", str(key_files["worker"]))
        yield hub
    finally:
        await hub.stop()


async def test_each_key_opens_its_own_door(locked: Fleet):
    events = await locked.send("alice", "add one")

    assert (texts_of(events), version_of(events)) == (["1 notes"], 1)
    for given in ({}, {"Authorization": "Bearer the-worker-key"}, {"Authorization": "Basic the-api-key"}):
        async with httpx.AsyncClient(headers=given) as stranger:
            reads = await stranger.get(f"{locked.url}/v1/sessions")
            writes = await stranger.post(messages(locked), json={"text": "nothing", "agent": "probe"})
        assert [reads.status_code, writes.status_code] == [401, 401]
        assert (code_of(reads), reads.headers["www-authenticate"]) == ("UNAUTHENTICATED", "Bearer")
    for given in ({}, {"Authorization": "Bearer the-api-key"}):
        assert await link_refusal(link(locked), additional_headers=given) == (401, "UNAUTHENTICATED")


async def test_probes_need_no_key_and_say_nothing(locked: Fleet):
    """A load balancer has no key; what it may ask gives nothing away."""
    async with httpx.AsyncClient() as stranger:
        probes = [await stranger.get(f"{locked.url}/{path}") for path in ("healthz", "readyz")]
        metrics = await stranger.get(f"{locked.url}/metrics")

    assert [(probe.status_code, list(probe.json())) for probe in probes] == [(200, ["status"])] * 2
    assert metrics.status_code == 401


async def test_a_worker_with_a_wrong_key_ends_and_says_so(locked: Fleet, key_files: dict[str, pathlib.Path]):
    """It is no outage that another try could end: a deploy with a wrong secret must fail at once."""
    probe = pathlib.Path(__file__).parent / "apps" / "probe.py"
    process = Process("worker", str(probe), "--hub", locked.url, "--key-file", str(key_files["api"]))
    await process.start()

    assert await process.ended() == 1
    assert "error: The request carries no valid key." in process.output
    assert "the-api-key" not in process.output


async def test_keys_are_in_no_log(locked: Fleet):
    outputs = [process.output for process in [locked.hub, *locked.workers] if process is not None]

    assert len(outputs) == 2
    assert not [output for output in outputs if "the-api-key" in output or "the-worker-key" in output]


async def test_a_hub_beyond_loopback_does_not_start_without_keys(tmp_path):
    """It would be the whole network's: no warning, an end."""
    cases: list[tuple[dict[str, str], str]] = [
        ({}, "SATCHEL_API_KEY and SATCHEL_WORKER_KEY"),
        ({"SATCHEL_API_KEY": "a"}, "SATCHEL_WORKER_KEY"),
        ({"SATCHEL_WORKER_KEY": "w"}, "SATCHEL_API_KEY"),
    ]
    args = ("hub", "--host", "0.0.0.0", "--port", "0", "--store", str(tmp_path / "hub.db"))
    ends = await asyncio.gather(*(run(*args, env=env) for env, _missing in cases))

    for (_env, missing), (code, output, errors) in zip(cases, ends, strict=True):
        assert (code, output) == (1, "")
        assert errors == (
            "error: A hub on 0.0.0.0 can be reached from other machines and has no keys.\n"
            f"  Set {missing}, or listen on 127.0.0.1.\n"
        )
    assert not (tmp_path / "hub.db").exists()


async def test_a_key_file_that_holds_no_key_is_refused(tmp_path):
    """An empty secret must not mean that none is asked for."""
    files = [tmp_path / name for name in ("missing.key", "empty.key", "blank.key")]
    files[1].write_text("")
    files[2].write_text(" \n")
    args = ("hub", "--port", "0", "--store", str(tmp_path / "hub.db"), "--api-key-file")
    ends = await asyncio.gather(*(run(*args, str(file)) for file in files))

    for file, (code, _output, errors) in zip(files, ends, strict=True):
        assert code == 1
        assert errors.startswith(f"error: The caller key file {file} ")
