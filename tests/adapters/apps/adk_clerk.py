"""An agent of Google ADK whose model is a script; gates are files, so that a test decides when a tool goes on."""

import asyncio
import os
import pathlib
from collections.abc import AsyncGenerator

from google.adk.agents import LlmAgent, RunConfig
from google.adk.agents.run_config import StreamingMode
from google.adk.models import BaseLlm, LlmRequest, LlmResponse
from google.adk.runners import Runner
from google.adk.tools import ToolContext
from google.genai import types

import satchel
from satchel import Turn, Worker
from satchel.adapters.google_adk import SatchelSessionService

GATES = pathlib.Path(os.environ.get("PROBE_GATES", "."))
SCHEMA = "CREATE TABLE note (id INTEGER PRIMARY KEY, room TEXT NOT NULL) STRICT;"


def answer(*parts: types.Part, partial: bool | None = None) -> LlmResponse:
    return LlmResponse(content=types.Content(role="model", parts=list(parts)), partial=partial)


class Script(BaseLlm):
    """Calls the tool that the user's message names; then says what it gave, and how many contents it was shown."""

    model: str = "script"

    async def generate_content_async(
        self,
        llm_request: LlmRequest,
        stream: bool = False,  # noqa: FBT001, FBT002  # the framework's signature
    ) -> AsyncGenerator[LlmResponse, None]:
        (last,) = (llm_request.contents[-1].parts or [])[-1:]
        if last.function_response:
            gave = (last.function_response.response or {}).get("result")
            pieces = [f"It gave {gave}.", f" I see {len(llm_request.contents)} contents."]
        else:
            tool, _, room = (last.text or "").partition(" ")
            pieces = ["Let me see."]
            call = types.Part.from_function_call(name=tool, args={"room": room})
            yield answer(types.Part(text="hm", thought=True), types.Part(text=pieces[0]), call)
            return
        for piece in pieces if stream else []:
            yield answer(types.Part(text=piece), partial=True)
        yield answer(types.Part(text="".join(pieces)))


def price(room: str, tool_context: ToolContext) -> int:
    satchel.current_turn().state.execute("INSERT INTO note (room) VALUES (?)", (room,))
    tool_context.state["asked"] = tool_context.state.get("asked", 0) + 1
    tool_context.state["user:room"] = room
    tool_context.state["temp:room"] = room
    if room == "none":
        raise ValueError("a secret that callers must not see")
    if room == "shared":
        tool_context.state["app:room"] = room
    return 80


async def wait(room: str) -> str:
    turn = satchel.current_turn()
    turn.state.execute("INSERT INTO note (room) VALUES (?)", (room,))
    (GATES / f"{turn.message_id}.started.{turn.attempt}").touch()
    while not (GATES / f"{turn.message_id}.go").exists():
        await asyncio.sleep(0.01)
    return f"{room} in attempt {turn.attempt}"


def pid(room: str) -> str:
    return f"{room}{os.getpid()}"


sessions = SatchelSessionService()
runner = Runner(
    app_name="clerk",
    agent=LlmAgent(name="clerk", model=Script(), tools=[price, wait, pid]),
    session_service=sessions,
    auto_create_session=True,
)
worker = Worker("clerk", schema=SCHEMA)


@worker.on_message
async def reply(turn: Turn) -> None:
    await sessions.stream(
        runner.run_async(
            user_id=turn.session_id,
            session_id="main",
            new_message=types.UserContent(turn.text),
            run_config=RunConfig(streaming_mode=StreamingMode.SSE),
        )
    )
