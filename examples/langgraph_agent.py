"""A LangGraph agent that asks before it books, and books a turn later: satchel dev examples/langgraph_agent.py."""

from langchain_core.language_models import FakeListChatModel
from langgraph.graph import MessagesState, StateGraph
from langgraph.types import Command, interrupt

from satchel import Turn, Worker
from satchel.adapters.langgraph import SatchelSaver

model = FakeListChatModel(responses=["One room, two nights: 160 in all. Shall I book it?"])  # or any of LangChain's
steps = [
    ("offer", lambda past: {"messages": model.invoke(past["messages"])}),
    ("book", lambda past: {"messages": ("ai", "Booked." if interrupt(past["messages"][-1].text) == "yes" else "No.")}),
]
graph = StateGraph(MessagesState).add_sequence(steps).set_entry_point("offer").compile(SatchelSaver())
worker = Worker("langgraph_agent")


@worker.on_message
async def reply(turn: Turn) -> str:
    config = {"configurable": {"thread_id": turn.session_id}}
    is_answer = (await graph.aget_state(config)).interrupts
    given = Command(resume=turn.text) if is_answer else {"messages": [("user", turn.text)]}
    state = await graph.ainvoke(given, config, durability="exit")
    return state["messages"][-1].text
