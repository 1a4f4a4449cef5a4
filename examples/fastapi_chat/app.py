"""A chat in a FastAPI app that has users of its own; hub and worker run in the app's process.

    uv run uvicorn examples.fastapi_chat.app:app --timeout-graceful-shutdown 3

Then open http://127.0.0.1:8000, make two accounts in two browsers, and reload in the
middle of an answer. What Satchel adds is ``hub``, one line in ``lifespan``, and the
routes below ``/chat``.
"""

import contextlib
import os
import pathlib
from collections.abc import AsyncIterator
from typing import Annotated, Any, Final

import msgspec
from fastapi import Cookie, Depends, FastAPI, Header, HTTPException, Request, Response
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field

from satchel import AsyncSession, Hub, Reply, SatchelError
from satchel.errors import SessionNotFound

from .accounts import LOGIN_S, Accounts, User
from .agent import worker

FOLDER: Final = pathlib.Path(os.environ.get("CHAT_FOLDER", ".satchel/chat"))
STATIC: Final = pathlib.Path(__file__).parent / "static"

accounts = Accounts(FOLDER / "accounts.db")
hub = Hub(store=FOLDER / "sessions.db", workers=[worker])


@contextlib.asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    """What the app opened before, and the hub. An app without a lifespan says ``lifespan=hub.lifespan``."""
    accounts.open()
    async with hub:
        yield


async def from_this_site(request: Request) -> None:
    """Refuse what another site's page makes a browser send. Browsers say where a request comes from."""
    site = request.headers.get("sec-fetch-site", "same-origin")
    if request.method != "GET" and site not in {"same-origin", "none"}:
        raise HTTPException(403, "That came from a page of another site.")


app = FastAPI(lifespan=lifespan, dependencies=[Depends(from_this_site)])
app.mount("/static", StaticFiles(directory=STATIC))


@app.get("/")
async def page() -> FileResponse:
    """The one page. It may load from here alone, so that text that became markup could run nothing."""
    policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    headers = {"Content-Security-Policy": policy + "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"}
    return FileResponse(STATIC / "chat.html", headers=headers)


# --- who is there: the app's own, as before -------------------------------------------------------

COOKIE: Final = "__Host-login"  # browsers take this name only with Secure, Path=/ and no domain


class Credentials(BaseModel):
    name: str = Field(pattern=r"^[\w.-]{1,40}$")
    password: str = Field(min_length=8, max_length=200)


def current_user(token: Annotated[str, Cookie(alias=COOKIE)] = "") -> User:
    user = accounts.user_of(token)
    if user is None:
        raise HTTPException(401, "Please log in.")
    return user


CurrentUser = Annotated[User, Depends(current_user)]


@app.post("/accounts")
def sign_up(given: Credentials, response: Response) -> dict[str, Any]:
    user = accounts.sign_up(given.name, given.password)
    if user is None:
        raise HTTPException(409, "That name is taken.")
    return logged_in(user, response)


@app.post("/login")
def log_in(given: Credentials, response: Response) -> dict[str, Any]:
    user = accounts.user_with(given.name, given.password)
    if user is None:
        raise HTTPException(401, "That name and password do not go together.")
    return logged_in(user, response)


def logged_in(user: User, response: Response) -> dict[str, Any]:
    """Give the browser a new token, which no script can read and no other site's page can use."""
    # Secure: browsers take it from https alone, and from localhost for trying it out (Safari does not).
    token = accounts.begin_login(user)
    response.set_cookie(COOKIE, token, max_age=LOGIN_S, httponly=True, secure=True, samesite="lax")
    return {"name": user.name}


@app.post("/logout")
def log_out(response: Response, token: Annotated[str, Cookie(alias=COOKIE)] = "") -> None:
    accounts.end_login(token)
    response.delete_cookie(COOKIE, httponly=True, secure=True, samesite="lax")


@app.get("/me")
def me(user: CurrentUser) -> dict[str, Any]:
    return {"name": user.name}


# --- the chat -------------------------------------------------------------------------------------


class NewMessage(BaseModel):
    message_id: str  # made by the page before it sends, so that the same message sent twice runs once
    text: str = Field(min_length=1, max_length=8000)


async def session_of(user: CurrentUser) -> AsyncSession:
    """Name the session by the login, never by anything in the request: nobody can name another's."""
    return hub.session(f"user-{user.id}", agent=worker.name)


Session = Annotated[AsyncSession, Depends(session_of)]


def streamed(reply: Reply, after: int | None = None) -> StreamingResponse:
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # nginx would hold the words back
    return StreamingResponse(reply.sse(after=after), media_type="text/event-stream", headers=headers)


@app.get("/chat")
async def history(session: Session, before: str | None = None) -> Response:
    """The transcript, the newest page of it, or the one *before* a page's ``next_cursor``."""
    try:
        page = msgspec.json.encode(await session.messages(limit=20, before=before))
    except SessionNotFound:  # it begins with its first message
        page = b'{"messages": [], "next_cursor": null}'
    return Response(page, media_type="application/json", headers={"Cache-Control": "no-store"})


@app.post("/chat")
async def send(session: Session, message: NewMessage) -> StreamingResponse:
    return streamed(session.send(message.text, message_id=message.message_id))


@app.get("/chat/{message_id}")
async def follow(
    session: Session, message_id: str, last_event_id: Annotated[int | None, Header()] = None
) -> StreamingResponse:
    """The events of a message again: after a reload from the first, after a lost connection from the cursor."""
    return streamed(session.follow(message_id), after=last_event_id)


@app.post("/chat/{message_id}/stop")
async def stop(session: Session, message_id: str) -> dict[str, Any]:
    """Stop a message. Leaving its stream would not: the answer is there when the user comes back."""
    return {"status": (await session.cancel(message_id)).status}


@app.exception_handler(SatchelError)
async def refused(_request: Request, error: SatchelError) -> JSONResponse:
    """Answer as FastAPI does. What happens once a stream has begun is its last event instead."""
    return JSONResponse({"detail": error.message}, error.status)
