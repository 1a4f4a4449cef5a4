"""The reference pages name everything there is, the links lead somewhere, and the words are ours."""

import ast
import inspect
import re
from typing import Any

import pytest
import typer
from starlette.routing import Route, WebSocketRoute

import satchel
from satchel import errors, limits, model
from satchel.cli.main import command_line
from satchel.client.client import AsyncSession
from satchel.client.model import Answer
from satchel.client.reply import Reply
from satchel.client.sync import Session
from satchel.hub.openapi import OPENAPI
from satchel.hub.server import HubServer
from satchel.hub.telemetry import Telemetry
from satchel.protocol import link_pb2
from satchel.protocol.messages import FailureCode
from satchel.state import tables
from satchel.state.history import History
from satchel.state.values import Rows, State
from satchel.testing import SessionUnderTest
from tests.docs.pages import PAGES, ROOT, anchors, blocks, code, links, prose, read, rows, section, title_of

HTTP = "docs/reference/http.md"
PYTHON = "docs/reference/python.md"
CLI = "docs/reference/cli.md"
PROTOCOL = "docs/reference/protocol.md"
TELEMETRY = "docs/reference/telemetry.md"
LIMITS = "docs/explanation/limits.md"
GLOSSARY = "docs/explanation/glossary.md"
TITLES = [title_of(path) for path in PAGES]


# --- HTTP -------------------------------------------------------------------------------------


def routes() -> list[str]:
    """Return every route of a hub as pages write it: ``GET /v1/sessions``."""
    found = []
    for route in HubServer("unused.db").app.routes:
        if isinstance(route, WebSocketRoute):
            found.append(f"WS {route.path}")
        elif isinstance(route, Route):
            found += [f"{method} {route.path}" for method in sorted((route.methods or set()) - {"HEAD"})]
    return found


@pytest.mark.parametrize("route", routes())
def test_every_route_has_an_entry(route: str):
    """What is served and not documented is nobody's to rely on."""
    assert route in code(read(HTTP))


def test_every_documented_route_is_served():
    """A page must not promise what answers 404."""
    documented = {text for text in code(read(HTTP)) if re.match(r"(GET|POST|DELETE|PUT|PATCH|WS) /\S+$", text)}

    assert documented - set(routes()) == set()


def test_every_route_is_in_the_openapi_description():
    described = {f"{method.upper()} {path}" for path, item in OPENAPI["paths"].items() for method in item}

    assert {route for route in routes() if not route.startswith("WS")} - described <= {"GET /openapi.json"}


@pytest.mark.parametrize("name", sorted(errors.BY_CODE))
def test_every_error_code_has_an_entry(name: str):
    """A caller decides by the table: status and retryable must be the code's own."""
    kind = errors.BY_CODE[name]
    entries = [row for row in rows(section(HTTP, "Errors")) if row[0] == f"`{name}`"]

    assert len(entries) == 1
    _, status, retryable, advice = entries[0]
    assert (status, retryable) == (str(kind.status), "yes" if kind.retryable else "no")
    assert advice


def test_no_error_code_is_documented_that_is_not_there():
    documented = {row[0].strip("`") for row in rows(section(HTTP, "Errors")) if row[0].startswith("`")}

    assert documented == set(errors.BY_CODE)


@pytest.mark.parametrize("name", model.TurnEvent.__struct_fields__[5:])
def test_every_event_type_has_an_entry(name: str):
    entries = [row for row in rows(section(HTTP, "Events").partition("### ")[0]) if row[0] == f"`{name}`"]

    assert len(entries) == 1


@pytest.mark.parametrize("schema", ["Message", "Session", "Worker", "NewMessage"])
def test_every_field_of_the_api_has_an_entry(schema: str):
    fields = OPENAPI["components"]["schemas"][schema]["properties"]
    text = read(HTTP)

    assert [name for name in fields if f"`{name}`" not in text and f'"{name}"' not in text] == []


def test_every_field_of_a_turn_report_has_an_entry():
    documented = code(section(HTTP, "Events"))

    assert set(model.TurnReport.__struct_fields__) <= documented


# --- limits -----------------------------------------------------------------------------------


def bounds() -> dict[str, int | float]:
    """Return every bound of ``limits.py``; KIB and MIB are units."""
    return {name: value for name, value in vars(limits).items() if name.isupper() and name not in {"KIB", "MIB"}}


def shown(name: str, value: float) -> str:
    """Return a bound's value as the page writes it."""
    if "_BYTES_" in name:
        for unit, size in (("GiB", limits.KIB * limits.MIB), ("MiB", limits.MIB), ("KiB", limits.KIB)):
            if value % size == 0:
                return f"{int(value) // size} {unit}"
        return f"{int(value):,} bytes"
    number = f"{int(value):,}" if value == int(value) else str(value)
    return f"{number} s" if name.endswith("_S") else number


@pytest.mark.parametrize("name", sorted(bounds()))
def test_every_limit_has_an_entry(name: str):
    """A user meets a bound as an error: the page must say the same number, and why."""
    entries = [row for row in rows(read(LIMITS)) if row[0] == f"`{name}`"]

    assert len(entries) == 1
    assert entries[0][1] == shown(name, bounds()[name])
    assert entries[0][2]


def test_no_limit_is_documented_that_is_not_there():
    documented = {row[0].strip("`") for row in rows(read(LIMITS)) if row[0].startswith("`")}

    assert documented == set(bounds())


# --- the command line -----------------------------------------------------------------------------


def commands() -> dict[str, Any]:
    """Return every command by what is typed: ``satchel sessions list``."""

    def below(name: str, command: Any) -> dict[str, Any]:
        children = getattr(command, "commands", None)
        if children is None:
            return {name: command}
        found = {}
        for child in children.values():
            found.update(below(f"{name} {child.name}", child))
        return found

    return below("satchel", typer.main.get_command(command_line()))


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_command_and_option_has_an_entry(name: str):
    documented = code(section(CLI, f"`{name}`"))
    options = {option for each in commands()[name].params for option in each.opts if option.startswith("--")}

    assert options - documented == set()


@pytest.mark.parametrize("name", sorted(commands()))
def test_no_option_is_documented_that_is_not_there(name: str):
    options = {option for each in commands()[name].params for option in (*each.opts, *each.secondary_opts)}
    documented = {row[0].strip("`") for row in rows(section(CLI, f"`{name}`")) if row[0].startswith("`--")}

    assert documented - options == set()


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_environment_variable_has_an_entry(name: str):
    variables = {each.envvar for each in commands()[name].params if each.envvar}

    assert variables <= code(read(CLI))


# --- the link -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(link_pb2.DESCRIPTOR.message_types_by_name))
def test_every_frame_and_field_has_an_entry(name: str):
    """Another language's worker is written from this page."""
    descriptor = link_pb2.DESCRIPTOR.message_types_by_name[name]
    fields = {(str(field.number), f"`{field.name}`") for field in descriptor.fields}

    documented = {row[:2] for row in rows(section(PROTOCOL, f"`{name}`")) if row[0].isdigit() and len(row) == 3}
    if name == "TextMessageError":
        documented -= {(str(code.value), f"`{code.name}`") for code in FailureCode}
    assert documented == fields


@pytest.mark.parametrize("failure", list(FailureCode))
def test_every_failure_code_has_an_entry(failure: FailureCode):
    documented = {row[:2] for row in rows(section(PROTOCOL, "`TextMessageError`"))}

    assert (str(failure.value), f"`{failure.name}`") in documented


@pytest.mark.parametrize("name", sorted(tables.STATEMENTS))
def test_every_column_of_our_tables_has_an_entry(name: str):
    """People query exported files: the columns are a promise."""
    body = tables.STATEMENTS[name].partition("(\n")[2].rpartition("\n)")[0]
    columns = [line.split()[0] for line in body.splitlines()]

    documented = [row[0].strip("`") for row in rows(section(PROTOCOL, f"`{name}`")) if row[0].startswith("`")]
    assert documented == columns


# --- telemetry ------------------------------------------------------------------------------------


def metrics() -> dict[str, tuple[str, set[str]]]:
    """Return every metric's type and labels by its name as it is scraped."""
    found = {}
    for metric in vars(Telemetry()).values():
        if hasattr(metric, "describe"):
            (family,) = metric.describe()
            suffix = "_total" if family.type == "counter" else ""
            found[family.name + suffix] = (family.type, set(metric._labelnames))
    return found


@pytest.mark.parametrize("name", sorted(metrics()))
def test_every_metric_has_an_entry(name: str):
    entries = [row for row in rows(section(TELEMETRY, "Metrics")) if row[0] == f"`{name}`"]

    assert len(entries) == 1
    _, kind, labels, meaning = entries[0]
    assert (kind, code(labels)) == metrics()[name]
    assert meaning


def test_no_metric_is_documented_that_is_not_there():
    documented = {row[0].strip("`") for row in rows(section(TELEMETRY, "Metrics")) if row[0].startswith("`")}

    assert documented == set(metrics())


def records() -> list[tuple[str, str, str, frozenset[str]]]:
    """Return logger, level, sentence and named facts of every record that is written, but for DEBUG."""
    found = []
    for path in sorted((ROOT / "src" / "satchel").rglob("*.py")):
        tree = ast.parse(path.read_text())
        name = next(
            (
                call.args[0].value
                for call in ast.walk(tree)
                if isinstance(call, ast.Call) and ast.unparse(call.func) == "logging.getLogger" and call.args
                and isinstance(call.args[0], ast.Constant)
            ),
            None,
        )  # fmt: skip
        for call in ast.walk(tree):
            if not (isinstance(call, ast.Call) and ast.unparse(call.func).startswith("logger.")):
                continue
            level = ast.unparse(call.func).removeprefix("logger.").replace("exception", "error")
            if level not in {"debug", "isEnabledFor"}:
                sentence = call.args[0]
                assert isinstance(sentence, ast.Constant), f"{path}:{call.lineno}: a record's sentence is constant"
                found.append((str(name), level, str(sentence.value), _facts(call)))
    return found


def _facts(call: ast.Call) -> frozenset[str]:
    extra = next((keyword.value for keyword in call.keywords if keyword.arg == "extra"), None)
    keys = extra.keys if isinstance(extra, ast.Dict) else []
    return frozenset(str(key.value) for key in keys if isinstance(key, ast.Constant))


@pytest.mark.parametrize("record", records(), ids=lambda record: record[2])
def test_every_log_record_has_an_entry(record: tuple[str, str, str, frozenset[str]]):
    """Operators search for the sentence and filter by the facts."""
    logger, level, sentence, facts = record
    entries = [
        row
        for row in rows(section(TELEMETRY, "Log"))
        if row[:3] == (f"`{logger}`", level, f"`{sentence}`")
    ]  # fmt: skip

    assert len(entries) == 1, f"{logger} {level} {sentence}"
    entry = entries[0][3] if "see below" not in entries[0][3] else section(TELEMETRY, "The line of a turn")
    assert facts <= code(entry)


# --- Python ---------------------------------------------------------------------------------------

DOCUMENTED = {
    "`Worker`": satchel.Worker,
    "`Turn`": satchel.Turn,
    "`AsyncClient`": satchel.AsyncClient,
    "`AsyncSession`": AsyncSession,
    "`Reply`": Reply,
    "`Answer`": Answer,
    "`Client`": satchel.Client,
    "`Hub`": satchel.Hub,
    "`History`": History,
}
"""Headings of the page, and the classes they describe."""


def members(kind: type) -> set[str]:
    """Return what a class offers under names without underscores, beyond what its bases do."""
    inherited = {name for base in kind.__mro__[1:] for name in vars(base)}
    return {name for name in vars(kind) if not name.startswith("_")} - inherited


def test_every_public_name_has_an_entry():
    """What stands in ``__all__`` is what is promised."""
    documented = code(read(PYTHON))

    assert [name for name in satchel.__all__ if not any(re.search(rf"\b{name}\b", each) for each in documented)] == []


RUNTIMES = {"append", "changes", "close", "flush", "forget", "is_whole", "restore"}
"""What only the runtime calls on the state and history of a turn."""


@pytest.mark.parametrize("heading", DOCUMENTED)
def test_every_public_member_has_an_entry(heading: str):
    text = " ".join(code(section(PYTHON, heading)))
    offered = members(DOCUMENTED[heading]) - (RUNTIMES if heading == "`History`" else set())

    assert [name for name in sorted(offered) if not re.search(rf"\b{name}\b", text)] == []


@pytest.mark.parametrize("heading", ["`Worker`", "`AsyncClient`", "`Hub`"])
def test_every_argument_has_an_entry(heading: str):
    parameters = list(inspect.signature(DOCUMENTED[heading]).parameters)
    text = " ".join(code(section(PYTHON, heading)))

    assert [name for name in parameters if not re.search(rf"\b{name}\b", text)] == []


def test_every_way_to_use_the_state_has_an_entry():
    text = " ".join(code(section(PYTHON, "`State`")))
    offered = (members(State) | members(Rows)) - RUNTIMES - {"keys", "columns"}

    assert [name for name in sorted(offered) if not re.search(rf"\b{name}\b", text)] == []


def test_every_member_of_a_blocking_session_has_an_entry():
    text = " ".join(code(section(PYTHON, "`Client`")))

    assert [name for name in sorted(members(Session)) if name not in text and name != "session_id"] == []


def test_every_member_of_a_session_under_test_has_an_entry():
    text = read("docs/howto/test-an-agent.md")
    offered = members(SessionUnderTest) - RUNTIMES

    assert [name for name in sorted(offered) if f"session.{name}" not in text] == []


def test_every_error_class_has_an_entry():
    def below(kind: type) -> set[str]:
        children = [child for child in kind.__subclasses__() if child.__module__ == errors.__name__]
        return {kind.__name__}.union(*map(below, children))

    assert below(errors.SatchelError) - code(section(PYTHON, "Errors")) == set()


# --- words ------------------------------------------------------------------------------------------


def glossary() -> list[tuple[str, ...]]:
    return [row for row in rows(read(GLOSSARY)) if row[0].startswith("**")]


def test_the_words_of_the_code_are_in_the_glossary():
    """One word per thing, in Python, SQL, on the wire, in logs and here."""
    words = set(re.findall(r"\*\*([^*]+)\*\*", read(GLOSSARY)))
    statuses = {each.value for each in model.TurnStatus}
    starts = {each.value for each in model.Start}
    kinds = {each.value for each in model.PayloadKind}

    assert statuses | starts | kinds | {"pending", "epoch", "attempt", "digest", "state ID"} <= words


def test_the_glossary_has_each_word_once():
    words = re.findall(r"\*\*([^*]+)\*\*", read(GLOSSARY))

    assert sorted(words) == sorted(set(words))


FRAMEWORKS_WORDS = {"docs/howto/langgraph.md": {"checkpoint"}}
"""What a framework calls a thing of its own, on the page about it."""


@pytest.mark.parametrize("page", [title for title in TITLES if title != GLOSSARY])
def test_a_page_uses_the_glossarys_word(page: str):
    """A synonym makes readers look for a second thing."""
    refused = {word for row in glossary() for word in code(row[2])} - FRAMEWORKS_WORDS.get(page, set())
    text = prose(page).lower()

    assert [word for word in sorted(refused) if re.search(rf"\b{re.escape(word)}s?\b", text)] == []


# --- links and blocks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("page", TITLES)
def test_links_lead_somewhere(page: str):
    """A page that is not there, or a heading that was renamed, is a promise broken at a bad moment."""
    lost = []
    for target in links(page):
        path, _, anchor = target.partition("#")
        there = (ROOT / page).parent / path if path else ROOT / page
        is_lost = not there.exists() or (
            anchor and anchor not in anchors(there.resolve().relative_to(ROOT).as_posix())
        )  # fmt: skip
        if is_lost:
            lost.append(target)

    assert lost == []


@pytest.mark.parametrize("page", [title for title in TITLES if title.startswith("docs/")])
def test_a_page_can_be_reached(page: str):
    """From the README or from another page; decisions from their folder."""
    reached = set()
    for other in TITLES:
        for target in links(other):
            there = ((ROOT / other).parent / target.partition("#")[0]).resolve()
            reached.add(there)

    path = (ROOT / page).resolve()
    assert path in reached or path.parent in reached


@pytest.mark.parametrize("page", TITLES)
def test_python_blocks_are_python(page: str):
    """Those with a file name are run by test_snippets; the others must at least be the language they say."""
    for block in blocks(page):
        if block.kind == "python":
            compile(block.text, str(block), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("page", [title for title in TITLES if title.startswith("docs/decisions/")])
def test_a_decision_says_what_would_change_it(page: str):
    """A choice without its price and its end cannot be reconsidered."""
    text = read(page)

    for part in ("Situation", "Choice", "What we gave up", "What would change our mind"):
        assert f"**{part}.**" in text


def test_decisions_are_numbered_without_a_gap():
    numbers = [int(path.name[:4]) for path in sorted((ROOT / "docs" / "decisions").glob("*.md"))]

    assert numbers == list(range(1, len(numbers) + 1))
