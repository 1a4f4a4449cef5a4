"""What becomes of a request that meets a fault of ours."""

import httpx
import pytest

from satchel.hub.api import create_app
from satchel.hub.auth import Gate
from satchel.hub.settings import Keys


class Fault(Exception):
    pass


def faulty():
    raise Fault


async def no_link(_websocket):
    pass


@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/sessions/s/messages"), ("GET", "/v1/sessions/s/messages")])
@pytest.mark.parametrize("is_raised", [False, True])
async def test_a_fault_of_ours_is_told_to_the_caller_without_details_and_to_the_server(method, path, *, is_raised):
    """The caller of the route that Starlette never sees, too; what happened is in the server's log."""
    app = create_app(faulty, Gate(keys=Keys(), is_mounted=True), serve_link=no_link)
    transport = httpx.ASGITransport(app, raise_app_exceptions=is_raised)

    async with httpx.AsyncClient(transport=transport, base_url="http://hub") as client:
        if is_raised:
            with pytest.raises(Fault):
                await client.request(method, path, json={"text": "hello"})
            return
        response = await client.request(method, path, json={"text": "hello"})

    assert response.status_code == 500
    assert response.json()["error"]["code"] == "INTERNAL_ERROR"
