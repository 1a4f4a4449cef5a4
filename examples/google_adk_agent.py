"""An agent of Google ADK: GOOGLE_API_KEY=… satchel dev examples/google_adk_agent.py."""

from google.adk.agents import LlmAgent
from google.adk.runners import Runner
from google.genai import types

from satchel import Turn, Worker
from satchel.adapters.google_adk import SatchelSessionService


def book(room: str) -> str:
    return f"Booked {room}"


agent = LlmAgent(name="clerk", model="gemini-2.5-flash", instruction="You book rooms.", tools=[book])
sessions = SatchelSessionService()
runner = Runner(app_name="clerk", agent=agent, session_service=sessions, auto_create_session=True)
worker = Worker("google_adk_agent")


@worker.on_message
async def reply(turn: Turn) -> None:
    message = types.UserContent(turn.text)
    await sessions.stream(runner.run_async(user_id=turn.session_id, session_id="main", new_message=message))
