"""The FastAPI example in a real browser: what its user sees, whatever happens to the connection or the app."""

import asyncio
import contextlib
import itertools
import pathlib
import re
import shutil
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Locator, Page, Request, async_playwright, expect

from tests.acceptance.processes import PATIENCE_S, Process, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROOT = pathlib.Path(__file__).parents[2]
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
"""Root has no sandbox, a test machine no GPU, and nothing beyond loopback is to be asked for anything."""

expect.set_options(timeout=PATIENCE_S * 1000)
names = (f"user{number}" for number in itertools.count(1))


class App:
    """The example's app under uvicorn on one port, and the gate before its agent's words."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self._gate = folder / "gate"
        self._port = "0"
        self.url = ""
        self.process: Process | None = None

    async def start(self) -> None:
        """Start it, on the port it had before if there was one."""
        env = {"CHAT_FOLDER": str(self._folder / "chat"), "CHAT_GATE": str(self._gate)}
        options = ("--port", self._port, "--timeout-graceful-shutdown", "1")
        self.process = Process("tests.browser.gated:app", *options, env=env, cwd=ROOT, module="uvicorn")
        await self.process.start()
        self.url = (await self.process.saw(r"running on (http://\S+)"))[1]
        self._port = self.url.rpartition(":")[2]

    def let_say(self, words: int) -> None:
        """Let each attempt say so many words and wait."""
        fresh = self._gate.with_suffix(".fresh")
        fresh.write_text(str(words))
        fresh.rename(self._gate)

    def let_speak(self) -> None:
        """Hold nobody any longer."""
        self._gate.unlink(missing_ok=True)


class Wire:
    """The network between a browser and the app. While it is cut, nothing passes."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._ends: set[asyncio.StreamWriter] = set()
        self._is_cut = False
        self.url = ""

    @classmethod
    @contextlib.asynccontextmanager
    async def to(cls, app: App) -> AsyncIterator["Wire"]:
        wire = cls(int(app.url.rpartition(":")[2]))
        async with await asyncio.start_server(wire._carry, "127.0.0.1", 0) as server:
            wire.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            yield wire
            wire.cut()

    def cut(self) -> None:
        """Drop every connection where it stands, and every new one."""
        self._is_cut = True
        for end in self._ends:
            end.close()

    def mend(self) -> None:
        self._is_cut = False

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            writer.close()
            return
        theirs, ours = await asyncio.open_connection("127.0.0.1", self._port)
        self._ends |= {writer, ours}
        await asyncio.gather(self._copy(reader, ours), self._copy(theirs, writer))
        self._ends -= {writer, ours}

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()


class Visitor:
    """A user with a browser of their own, at the page."""

    def __init__(self, page: Page, name: str) -> None:
        self.page = page
        self.name = name
        self.log = page.get_by_role("log")
        self.turns = self.log.locator("article")
        self.answer = self.turns.last.locator(".answer")
        self.state = self.turns.last.locator(".state span")
        self.text = page.get_by_label("Message", exact=True)

    async def send(self, text: str) -> None:
        await self.text.fill(text)
        await self.page.get_by_role("button", name="Send").click()

    async def has_ended(self, how: str = "committed") -> None:
        """Wait until the last turn has ended so."""
        await expect(self.turns.last).to_have_attribute("data-end", how)

    async def ask(self, path: str, **options: Any) -> Any:
        """Fetch *path* as a script of the page would; return status and JSON or text."""
        script = """async ([path, options]) => {
            const response = await fetch(path, options), text = await response.text();
            try { return [response.status, JSON.parse(text)] } catch { return [response.status, text] }
        }"""
        return await self.page.evaluate(script, [path, options])

    async def transcript(self) -> list[dict[str, Any]]:
        _, page = await self.ask("chat")
        return list(page["messages"])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("Chromium is not installed: on Debian, apt-get install chromium")
    async with async_playwright() as playwright:
        running = await playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield running
        await running.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[App]:  # noqa: ARG001  # no app where there is no browser
    app = App(tmp_path_factory.mktemp("chat"))
    try:
        await app.start()
        yield app
    finally:
        assert app.process is not None
        await app.process.stop()
    assert "Exception in ASGI application" not in app.process.output, app.process.output


@pytest.fixture
def app(served: App) -> App:
    served.let_speak()
    return served


@contextlib.asynccontextmanager
async def opened(browser: Browser, url: str, **options: Any) -> AsyncIterator[Page]:
    """Open the page in a browser profile of its own. It must raise nothing and break no rule of its policy."""
    context: BrowserContext = await browser.new_context(**options)
    trouble: list[str] = []
    page = await context.new_page()
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("console", lambda message: trouble.append(message.text) if "Policy" in message.text else None)
    try:
        await page.goto(url)
        yield page
    finally:
        await context.close()
    assert trouble == []


@contextlib.asynccontextmanager
async def visiting(browser: Browser, app: App, *, url: str = "", **options: Any) -> AsyncIterator[Visitor]:
    """Open the page as a new user, at *url* if the way there is not the straight one."""
    async with opened(browser, url or app.url, **options) as page:
        visitor = Visitor(page, next(names))
        await page.get_by_label("Name").fill(visitor.name)
        await page.get_by_label("Password").fill("correct horse")
        await page.get_by_role("button", name="Create account").click()
        await expect(page.get_by_text(visitor.name)).to_be_visible()
        yield visitor


@pytest_asyncio.fixture(loop_scope="module")
async def ada(browser: Browser, app: App) -> AsyncIterator[Visitor]:
    async with visiting(browser, app) as visitor:
        yield visitor


# --- an answer ------------------------------------------------------------------------------------


async def test_words_are_seen_as_they_come(ada: Visitor, app: App):
    """A stream that is held back somewhere on its way would show them all at once."""
    app.let_say(3)
    await ada.send("count to 5")

    await expect(ada.answer).to_have_text("1 2 3")
    await expect(ada.turns.last).to_have_attribute("aria-busy", "true")
    app.let_say(4)
    await expect(ada.answer).to_have_text("1 2 3 4")
    app.let_speak()
    await expect(ada.answer).to_have_text("1 2 3 4 5")
    await ada.has_ended()
    await expect(ada.turns.last).to_have_attribute("aria-busy", "false")


async def test_tool_calls_are_seen(ada: Visitor):
    await ada.send("remember the milk")
    await ada.has_ended()

    call = ada.turns.last.locator("details")
    await expect(call.locator("summary")).to_have_text("add_note")
    await call.locator("summary").click()
    await expect(call.locator(".arguments")).to_have_text('{"text": "the milk"}')
    await expect(call.locator(".output")).to_have_text("1")
    await expect(ada.answer.locator("p")).to_have_text("Noted. That makes 1.")


async def test_a_doubled_click_sends_once(ada: Visitor):
    await ada.text.fill("remember the milk")
    await ada.page.get_by_role("button", name="Send").dblclick()
    await ada.has_ended()
    await ada.page.reload()

    await expect(ada.turns).to_have_count(1)
    assert [row["version"] for row in await ada.transcript()] == [1]


async def test_a_message_that_is_sent_twice_runs_once(ada: Visitor):
    """A page whose request got no answer sends it again: the message ID makes the two one."""
    body = '{"message_id": "m1", "text": "remember the milk"}'
    script = """body => Promise.all([1, 2].map(() =>
        fetch("chat", {method: "POST", body, headers: {"Content-Type": "application/json"}}).then(r => r.text())))"""

    streams = await ada.page.evaluate(script, body)

    for stream in streams:
        assert re.findall(r'"session_state":{"version":(\d+)}', stream) == ["1"]
    assert [row["answer"]["text"] for row in await ada.transcript()] == ["Noted. That makes 1."]


async def test_an_error_is_said_in_words_and_can_be_tried_again(ada: Visitor):
    """The user learns what to do, and nothing of the program; the failed attempt leaves nothing."""
    await ada.send("1 / 0")
    await ada.has_ended("failed")

    await expect(ada.state).to_contain_text("Something failed on the way to an answer. Nothing of it was kept.")
    await expect(ada.log).not_to_contain_text("ZeroDivisionError")
    await expect(ada.answer).to_be_empty()
    await ada.page.get_by_role("button", name="Try again").click()

    async def ran_twice() -> bool:
        return [(row["status"], row["attempts"]) for row in await ada.transcript()] == [("failed", 2)]

    await until(ran_twice)
    await ada.has_ended("failed")


async def test_a_refusal_is_the_agents_own_words(ada: Visitor):
    await ada.send("count to 2000")
    await ada.has_ended("failed")

    await expect(ada.state).to_have_text("I count to 1000 at most.")
    await ada.page.reload()
    await expect(ada.state).to_contain_text("I count to 1000 at most.")


async def test_text_that_looks_like_markup_stays_text(ada: Visitor):
    """What a user, a tool or a model says must run nothing, now or from the transcript."""
    markup = """<img src=x onerror="document.title='owned'"><script>document.title='owned'</script><b>bold</b>"""
    await ada.send(f"remember {markup}")
    await ada.has_ended()
    await ada.send("notes")
    await ada.has_ended()

    for _ in range(2):
        await expect(ada.answer.locator("p")).to_have_text(markup)
        await expect(ada.turns.first.locator(".asked")).to_have_text(f"remember {markup}")
        await expect(ada.log.locator("img, script, b")).to_have_count(0)
        await expect(ada.page).to_have_title("Notes")
        await ada.page.reload()


# --- stop, reload, lost connections ---------------------------------------------------------------


@pytest.mark.parametrize("how", ["button", "key"])
async def test_a_slow_answer_is_stopped(ada: Visitor, app: App, how: str):
    """It leaves nothing, and the next message does not wait for it."""
    app.let_say(2)
    await ada.send("count to 9")
    await expect(ada.answer).to_have_text("1 2")

    if how == "button":
        await ada.page.get_by_role("button", name="Stop").click()
    else:
        await ada.page.keyboard.press("Escape")

    await ada.has_ended("cancelled")
    await expect(ada.state).to_have_text("Stopped.")
    await expect(ada.answer).to_be_empty()
    app.let_speak()
    await ada.send("count to 3")
    await expect(ada.answer).to_have_text("1 2 3")
    await ada.page.reload()
    await expect(ada.turns.first.locator(".state span")).to_contain_text("Stopped.")


async def test_a_reload_in_the_middle_goes_on(ada: Visitor, app: App):
    """The answer belongs to the session: a page is only where it is looked at."""
    app.let_say(3)
    await ada.send("count to 5")
    await expect(ada.answer).to_have_text("1 2 3")

    await ada.page.reload()

    await expect(ada.answer).to_have_text("1 2 3")
    app.let_say(4)
    await expect(ada.answer).to_have_text("1 2 3 4")
    app.let_speak()
    await ada.has_ended()
    await expect(ada.answer).to_have_text("1 2 3 4 5")
    assert [(row["status"], row["attempts"]) for row in await ada.transcript()] == [("committed", 1)]


async def test_a_lost_connection_goes_on_behind_the_last_event(browser: Browser, app: App):
    """No word is lost and none comes twice, and the app is not asked for those that arrived."""
    async with Wire.to(app) as wire, visiting(browser, app, url=wire.url) as ada:
        app.let_say(3)
        await ada.send("count to 5")
        await expect(ada.answer).to_have_text("1 2 3")

        wire.cut()
        await expect(ada.state).to_contain_text("The connection was lost. Trying again")
        app.let_speak()
        async with ada.page.expect_request(has_cursor) as followed:
            wire.mend()

        await expect(ada.answer).to_have_text("1 2 3 4 5")
        await ada.has_ended()
        cursor = int((await (await followed.value).all_headers())["last-event-id"])
        (row,) = await ada.transcript()
        _, rest = await ada.ask(f"chat/{row['message_id']}", headers={"Last-Event-ID": str(cursor)})
        assert re.findall(r"^id: (\d+)$", rest, re.MULTILINE)[0] == str(cursor + 1)


def has_cursor(request: Request) -> bool:
    return request.method == "GET" and "last-event-id" in request.headers


async def test_an_app_that_is_killed_in_the_middle_runs_the_message_again(ada: Visitor, app: App):
    """What the lost attempt said is dropped from the page: it was never kept."""
    app.let_say(3)
    await ada.send("count to 5")
    await expect(ada.answer).to_have_text("1 2 3")
    assert app.process is not None

    await app.process.kill()
    await expect(ada.state).to_contain_text("The connection was lost. Trying again")
    app.let_say(1)
    await app.start()

    await expect(ada.answer).to_have_text("1")
    app.let_speak()
    await ada.has_ended()
    await expect(ada.answer).to_have_text("1 2 3 4 5")
    assert [(row["version"], row["attempts"]) for row in await ada.transcript()] == [(1, 2)]


# --- who is there ---------------------------------------------------------------------------------


async def test_two_users_do_not_see_each_other(browser: Browser, app: App, ada: Visitor):
    """Sessions are named by the login: what another one's messages are called is of no use."""
    await ada.send("remember the milk")
    await ada.has_ended()
    (hers,) = await ada.transcript()

    async with visiting(browser, app) as grace:
        await expect(grace.turns).to_have_count(0)
        assert await grace.transcript() == []
        await grace.send("notes")
        await expect(grace.answer.locator("p")).to_have_text("There are no notes yet.")
        status, followed = await grace.ask(f"chat/{hers['message_id']}")
        stopped, _ = await grace.ask(f"chat/{hers['message_id']}/stop", method="POST")

    assert (status, stopped) == (200, 404)
    assert "MESSAGE_NOT_FOUND" in followed
    assert "milk" not in followed
    assert len(await ada.transcript()) == 1


async def test_a_login_lasts_over_a_reload_and_ends_with_log_out(ada: Visitor):
    """No script can read the cookie, and the page keeps nothing of who was there."""
    await ada.send("remember the milk")
    await ada.has_ended()
    assert await ada.page.evaluate("document.cookie") == ""
    before = [(cookie["httpOnly"], cookie["secure"], cookie["sameSite"]) for cookie in await ada.page.context.cookies()]

    await ada.page.reload()
    await expect(ada.answer).to_contain_text("Noted")
    await ada.page.get_by_role("button", name="Log out").click()

    await expect(ada.page.get_by_role("heading", name="Who are you?")).to_be_visible()
    await expect(ada.turns).to_have_count(0)
    assert before == [(True, True, "Lax")]
    assert await ada.page.context.cookies() == []


async def test_a_wrong_password_is_said_in_words(browser: Browser, app: App, ada: Visitor):
    async with opened(browser, app.url) as page:
        await page.get_by_label("Name").fill(ada.name)
        await page.get_by_label("Password").fill("wrong horse")
        await page.get_by_role("button", name="Log in").click()
        await expect(page.get_by_role("alert")).to_have_text("That name and password do not go together.")
        await page.get_by_role("button", name="Create account").click()
        await expect(page.get_by_role("alert")).to_have_text("That name is taken.")
        await page.get_by_label("Password").fill("correct horse")
        await page.keyboard.press("Enter")
        await expect(page.get_by_label("Message", exact=True)).to_be_focused()


# --- the page -------------------------------------------------------------------------------------


async def test_older_messages_are_shown_on_demand(ada: Visitor):
    """A page shows the end of a long conversation at once, whatever its length."""
    for number in range(22):
        body = f'{{"message_id": "m{number}", "text": "remember {number}"}}'
        await ada.ask("chat", method="POST", body=body, headers={"Content-Type": "application/json"})
    await ada.page.reload()

    await expect(ada.turns).to_have_count(20)
    await ada.page.get_by_role("button", name="Earlier messages").click()

    await expect(ada.turns).to_have_count(22)
    await expect(ada.turns.first.locator(".asked")).to_have_text("remember 0")
    await expect(ada.page.get_by_role("button", name="Earlier messages")).to_be_hidden()


async def test_the_keyboard_is_enough(ada: Visitor, app: App):
    """Enter sends, Shift and Enter begins a line, and the focus is never lost."""
    app.let_say(1)
    await expect(ada.text).to_be_focused()
    await ada.page.keyboard.type("remember one")
    await ada.page.keyboard.press("Shift+Enter")
    await ada.page.keyboard.type("and two")
    await ada.page.keyboard.press("Enter")
    await expect(ada.turns.last.locator(".asked")).to_have_text("remember one\nand two", use_inner_text=True)
    await expect(ada.answer.locator("p")).to_have_text("Noted.")
    await expect(ada.text).to_be_focused()

    await ada.page.keyboard.press("Shift+Tab")
    await expect(ada.page.get_by_role("button", name="Stop")).to_be_focused()
    await ada.page.keyboard.press("Enter")

    await ada.has_ended("cancelled")
    await expect(ada.text).to_be_focused()


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_a_phone_shows_it_all_and_it_can_be_read(browser: Browser, app: App, scheme: str):
    """Nothing is wider than the page, and every text stands out from its ground (WCAG AA: 4.5 to 1)."""
    async with visiting(browser, app, viewport={"width": 360, "height": 640}, color_scheme=scheme) as visitor:
        for text in ("remember " + "x" * 200, "1 / 0", "notes"):
            await visitor.send(text)
            await expect(visitor.turns.last).to_have_attribute("aria-busy", "false")
        await visitor.turns.last.locator("summary").click()

        width = await visitor.page.evaluate("document.documentElement.scrollWidth")
        texts = visitor.page.locator("h1, #name, .asked, .answer p, .call pre, .state span, button:visible")
        ratios = {await one.inner_text(): await contrast(one) for one in await texts.all() if await one.is_visible()}

    assert width == 360
    assert len(ratios) > 8
    assert {text: ratio for text, ratio in ratios.items() if ratio < 4.5} == {}


async def contrast(element: Locator) -> float:
    """Return the contrast ratio of a text and the ground it stands on, as WCAG defines it."""
    script = """element => {
        let ground = element;
        while (getComputedStyle(ground).backgroundColor === "rgba(0, 0, 0, 0)") ground = ground.parentElement;
        return [getComputedStyle(element).color, getComputedStyle(ground).backgroundColor];
    }"""
    lighter, darker = sorted((luminance(color) for color in await element.evaluate(script)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def luminance(color: str) -> float:
    """Return the relative luminance of ``rgb(r, g, b)``."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
