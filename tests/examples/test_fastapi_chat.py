"""The FastAPI example as an attacker's program sees it: what no page of its own would send."""

import importlib
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from examples.fastapi_chat import app as module

ADA = {"name": "ada", "password": "correct horse"}
MESSAGE = {"message_id": "m1", "text": "remember the milk"}


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "chat"


@pytest.fixture
def app(folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The app on files of its own: the module reads where they are when it is loaded."""
    monkeypatch.setenv("CHAT_FOLDER", str(folder))
    return importlib.reload(module).app


@pytest.fixture
def http(app: Any) -> Iterator[TestClient]:
    with TestClient(app, base_url="https://chat.example") as client:
        yield client


def forget(http: TestClient) -> None:
    """Make *http* a stranger's, with no cookies: one client runs the app, so there is no second."""
    http.cookies.clear()


def events(text: str) -> list[str]:
    return re.findall(r"^event: (\w+)$", text, re.MULTILINE)


def test_a_message_is_streamed_once_and_again_from_its_cursor(http: TestClient):
    http.post("/accounts", json=ADA)

    first = http.post("/chat", json=MESSAGE)
    repeat = http.post("/chat", json=MESSAGE)
    cursors = re.findall(r"^id: (\d+)$", first.text, re.MULTILINE)
    rest = http.get("/chat/m1", headers={"Last-Event-ID": cursors[-2]})

    assert first.headers["content-type"].startswith("text/event-stream")
    assert events(first.text)[:3] == ["accepted", "function_call", "function_call_output"]
    assert repeat.text == first.text
    assert events(rest.text) == ["complete"]
    assert [row["answer"]["text"] for row in http.get("/chat").json()["messages"]] == ["Noted. That makes 1."]


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/chat"), ("POST", "/chat"), ("GET", "/chat/m1"), ("POST", "/chat/m1/stop")]
)
def test_nobody_talks_without_a_login(http: TestClient, method: str, path: str):
    """A forged token is none, and neither is the name of a session or user in the request."""
    http.post("/accounts", json=ADA)
    http.post("/chat", json=MESSAGE)
    forget(http)

    bare = http.request(method, path, json=MESSAGE, params={"user": 1, "session_id": "user-1"})
    http.cookies.set("__Host-login", "1")
    forged = http.request(method, path, json=MESSAGE)

    assert [bare.status_code, forged.status_code] == [401, 401]


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
@pytest.mark.parametrize("path", ["/chat", "/chat/m1/stop", "/logout", "/login", "/accounts"])
def test_a_page_of_another_site_can_do_nothing(http: TestClient, path: str, site: str):
    """Its requests may carry the user's cookie: on the same host, another port is the same site to a cookie."""
    http.post("/accounts", json=ADA)

    answer = http.post(path, json=MESSAGE if path == "/chat" else ADA, headers={"Sec-Fetch-Site": site})

    assert answer.status_code == 403
    assert http.get("/chat").json()["messages"] == []


def test_a_form_is_no_message(http: TestClient):
    """What a page may send without asking is not JSON, and is refused whatever it says of its origin."""
    http.post("/accounts", json=ADA)

    answer = http.post("/chat", content=b'{"message_id": "m1", "text": "x"}', headers={"Content-Type": "text/plain"})

    assert answer.status_code == 422


def test_the_cookie_is_for_the_browser_alone_and_a_logged_out_one_is_worth_nothing(http: TestClient):
    cookie = http.post("/accounts", json=ADA).headers["set-cookie"].lower()
    token = http.cookies["__Host-login"]

    http.post("/logout")
    again = http.get("/me", headers={"Cookie": f"__Host-login={token}"})

    assert {"httponly", "secure", "path=/", "samesite=lax"} <= set(cookie.split("; "))
    assert "domain" not in cookie
    assert again.status_code == 401


def test_a_password_opens_its_own_account_alone(http: TestClient):
    http.post("/accounts", json=ADA)
    http.post("/chat", json=MESSAGE)
    forget(http)

    wrong = http.post("/login", json={**ADA, "password": "wrong horse"})
    unknown = http.post("/login", json={**ADA, "name": "grace"})
    taken = http.post("/accounts", json={**ADA, "name": "ADA"})
    right = http.post("/login", json=ADA)

    assert [wrong.status_code, unknown.status_code, taken.status_code, right.status_code] == [401, 401, 409, 200]
    assert wrong.json() == unknown.json()
    assert len(http.get("/chat").json()["messages"]) == 1


def test_the_files_hold_neither_passwords_nor_tokens(http: TestClient, folder: pathlib.Path):
    """Who copies a backup can log in as nobody."""
    http.post("/accounts", json=ADA)
    token = http.cookies["__Host-login"]
    stored = b"".join(path.read_bytes() for path in folder.iterdir() if path.is_file())

    assert b"ada" in stored
    assert b"correct horse" not in stored
    assert token.encode() not in stored


@pytest.mark.parametrize("message_id", ["", "../m1", "a b", "m" * 129])
def test_a_message_id_that_is_none_is_refused_before_anything_is_streamed(http: TestClient, message_id: str):
    http.post("/accounts", json=ADA)

    answer = http.post("/chat", json={**MESSAGE, "message_id": message_id})

    assert (answer.status_code, answer.json()) == (400, {"detail": "message_id is not an ID."})


def test_the_page_may_run_nothing_but_its_own_files(http: TestClient):
    page = http.get("/")
    sources = re.findall(r'(?:src|href)="([^"]+)"', page.text)

    assert "default-src 'none'; script-src 'self'" in page.headers["content-security-policy"]
    assert "unsafe" not in page.headers["content-security-policy"]
    assert [http.get(f"/{source}").status_code for source in sources] == [200] * 3
    assert not re.search(r"<script>|\son\w+=|style=", page.text)
