"""How a Satchel process writes its log: one line a record, facts as key=value, to stderr."""

import json
import logging

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class FactsFormatter(logging.Formatter):
    """The sentence, then every extra field of the record."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # the base class's name
        facts = (f" {name}={_shown(value)}" for name, value in vars(record).items() if name not in _STANDARD)
        return super().formatMessage(record) + "".join(facts)


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if text and not set(text) & set(' "=\n') else json.dumps(text)


def configure(level: str) -> None:
    """Send the log of *level* and above to stderr; libraries' only from WARNING."""
    handler = logging.StreamHandler()
    handler.setFormatter(FactsFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("satchel").setLevel(level.upper())
