"""Clients that send, follow, leave, come back, repeat themselves, contradict themselves and cancel."""

import asyncio
from typing import Any

from tests.simulation.agent import AGENT, KINDS, PLAIN_AGENT
from tests.simulation.checks import Message, Reading, Violated
from tests.simulation.net import ConnectionLost, Exchange
from tests.simulation.world import World

FORMS = ["lines"] * 6 + ["json", "json", "async", "async", "leave"]
"""How an answer is waited for; who leaves never asks again."""
RETRY_S = 0.5
SOUND_MESSAGES = 2
"""How many of its messages a client sends when all is sound again."""


class Client:
    """One caller of one session."""

    def __init__(self, world: World, session: str, name: str) -> None:
        self.world = world
        self.session = session
        self.name = name
        self.agent = PLAIN_AGENT if session == "s0" else AGENT
        self.strand = world.client(f"{session}-{name}")

    def start(self, messages: int) -> "asyncio.Task[None]":
        """Talk, on a strand of its own."""
        return self.strand.spawn(self.talk(messages))

    def _request(self, *args: Any, **options: Any) -> Exchange:
        return self.world.request(self.strand, *args, **options)

    async def talk(self, messages: int) -> None:
        """Send one message after the other, or a few at once."""
        chance = self.world.chance
        numbers = list(range(messages))
        while numbers:
            if len(numbers) <= SOUND_MESSAGES:
                await self.world.is_sound.wait()
                await asyncio.sleep(chance.choice([0, 5, 20]))
            await asyncio.sleep(chance.choice([0, 0, 0.01, 1]))
            count = min(chance.choice([1, 1, 1, 4]), max(len(numbers) - SOUND_MESSAGES, 1))
            burst, numbers = numbers[:count], numbers[count:]
            await asyncio.gather(*[self.strand.spawn(self._say(number)) for number in burst])

    async def _say(self, number: int) -> None:
        chance = self.world.chance
        kind = chance.choice(KINDS)
        message_id = f"{self.session}-{self.name}-{number}"
        message = self.world.history.message(self.session, message_id, f"{kind} {message_id}")
        beside = [self.strand.spawn(self.disturb(message)) for _ in range(chance.choice([0, 0, 0, 1, 2]))]
        await self.send(message)
        await asyncio.gather(*beside)

    async def send(self, message: Message) -> None:
        """Send a message until its end is known; now and then send a failed one again."""
        reading = Reading(message)
        while True:
            message.sends += 1
            await self.follow(message, reading)
            told = message.last_told
            if told is None or told[0] != "failed" or message.sends > 2 or self.world.chance.random() < 0.5:
                return
            self.world.history.counts["sent again"] += 1
            if self.world.chance.random() < 0.5:
                reading = Reading(message)
            else:  # the same reader goes on by its cursor: numbers rise over a message's whole life
                reading.complete = None

    async def follow(self, message: Message, reading: Reading) -> None:
        form = "resume" if reading.cursor >= 0 else self.world.chance.choice(FORMS)
        message.is_sent_unseen |= form == "leave"
        is_posted: Any = False
        while True:
            try:
                if form == "json" or not (is_posted or (form == "lines" and reading.cursor >= 0)):
                    is_posted = await self._post(message, reading, form)
                else:
                    await self._resume(message, reading)
            except ConnectionLost:
                self.world.history.counts["connection lost"] += 1
            if reading.complete is not None or (form in {"json", "leave"} and is_posted):
                return
            if is_posted is None:
                return
            await asyncio.sleep(RETRY_S)

    async def _post(self, message: Message, reading: Reading, form: str) -> Any:
        """Post; return whether it was accepted, or None if it was refused for good."""
        accept = {"lines": "application/x-ndjson", "json": "application/json"}.get(form, "")
        headers = {"prefer": "respond-async"} if form in {"async", "resume", "leave"} else {}
        body = {"text": message.text, "agent": self.agent, "message_id": message.message_id}
        path = f"/v1/sessions/{message.session}/messages"
        exchange = self._request("POST", path, body=body, accept=accept, **headers)
        message.posts += 1
        try:
            status = await exchange.head()
            if status in {200, 202}:
                message.is_accepted = True
            if status == 200 and form == "lines":
                await self._read(exchange, reading)
                return True
            answer = await exchange.json()
        finally:
            await _quietly(exchange)
        if status == 202:
            return True
        if status == 200:
            message.told_committed(answer["version"], (answer["answer"] or {}).get("text"))
            return True
        return self._refused(message, answer["error"])

    def _refused(self, message: Message, error: dict[str, Any]) -> Any:
        code = error["code"]
        if code in {"QUEUE_FULL", "AGENT_NOT_FOUND"}:
            self.world.history.counts[code] += 1
            return None
        if code in {"STORE_UNAVAILABLE", "HUB_DRAINING"}:
            return False
        message.told_error(error)
        return True if code != "CANCELLED" else None

    async def _resume(self, message: Message, reading: Reading) -> None:
        self.world.history.counts["resumed"] += 1
        query = f"?after={reading.cursor}" if reading.cursor >= 0 else ""
        exchange = self._request("GET", message.path + query, accept="application/x-ndjson")
        try:
            if await exchange.head() == 200:
                await self._read(exchange, reading)
                return
            answer = await exchange.json()
        finally:
            await _quietly(exchange)
        if answer["error"]["code"] not in {"STORE_UNAVAILABLE", "HUB_DRAINING"}:
            raise Violated("L9", "an accepted message is forgotten", message.message_id, answer)

    async def _read(self, exchange: Any, reading: Reading) -> None:
        """Read to the end, or leave in the middle."""
        leaves_after = self.world.chance.choice([1, 2, 4, None, None, None])
        count = 0
        async for event in exchange.lines():
            reading.take(event)
            count += 1
            if count == leaves_after:
                self.world.history.counts["reader left"] += 1
                return

    async def disturb(self, message: Message) -> None:
        """Do something else to a message that is under way."""
        chance = self.world.chance
        await asyncio.sleep(chance.choice([0, 0.005, 0.05, 0.5, 3, 10]))
        try:
            match chance.choice(["cancel", "cancel", "contradict", "watch", "look", "post and vanish"]):
                case "cancel":
                    await self._cancel(message)
                case "contradict":
                    await self._contradict(message)
                case "watch":
                    await self._watch(message)
                case "look":
                    await self._look(message)
                case "post and vanish":
                    await self._vanish(message)
        except ConnectionLost:
            pass

    async def _cancel(self, message: Message) -> None:
        exchange = self._request("POST", f"{message.path}/cancel")
        status, answer = await exchange.head(), await exchange.json()
        if status == 200:
            self.world.history.counts[f"cancel: {answer['status']}"] += 1
            row = message.row()
            if answer["status"] == "cancelled" and (row is None or row["status"] != "cancelled"):
                raise Violated("FENCED", "cancelled, and yet", row)
            if answer["status"] == "committed":
                message.told_committed(answer["version"], (answer["answer"] or {}).get("text"))

    async def _contradict(self, message: Message) -> None:
        """SAME-KEY-SAME-REQUEST: another text under a known ID is refused."""
        if not message.is_accepted:
            return
        body = {"text": "another text", "agent": self.agent, "message_id": message.message_id}
        exchange = self._request("POST", f"/v1/sessions/{message.session}/messages", body=body)
        status = await exchange.head()
        if status not in {422, 503}:
            raise Violated("SAME-KEY-SAME-REQUEST", status)
        await exchange.over()

    async def _watch(self, message: Message) -> None:
        """Follow a message that another one sent. A resend is another stream."""
        sends = message.sends
        exchange = self._request("GET", message.path, accept="application/x-ndjson")
        try:
            if await exchange.head() == 200:
                reading = Reading(message)
                async for event in exchange.lines():
                    if message.sends != sends:
                        break
                    reading.take(event)
        finally:
            await _quietly(exchange)

    async def _look(self, message: Message) -> None:
        exchange = self._request("GET", message.path, accept="application/json")
        status, answer = await exchange.head(), await exchange.json()
        if status == 200 and answer["status"] == "committed":
            message.told_committed(answer["version"], (answer["answer"] or {}).get("text"))

    async def _vanish(self, message: Message) -> None:
        """Post the same once more, and have the request cancelled wherever it is."""
        body = {"text": message.text, "agent": self.agent, "message_id": message.message_id}
        if message.last_told is not None:
            return
        exchange = self._request("POST", f"/v1/sessions/{message.session}/messages", body=body)
        message.posts += 1
        message.sends += 1  # if it has failed and its client does not know yet, this sends it again
        message.is_sent_unseen = True
        await asyncio.sleep(self.world.chance.choice([0, 0.001, 0.002, 0.004, 0.02]))
        exchange.cancel()


async def _quietly(exchange: Exchange) -> None:
    exchange.leave()
