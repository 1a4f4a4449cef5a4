"""How a Satchel process writes its log: one line a record, facts as key=value, to stderr."""

import json
import logging
import re
import time

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


_QUOTED = re.compile(r'[ "=\n]')


class FactsFormatter(logging.Formatter):
    """The sentence, then every extra field of the record."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")
        self._second, self._time = 0, ""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802  # its name
        """Return the local time with milliseconds; its second is written once for all of its records."""
        del datefmt
        second = int(record.created)
        if second != self._second:
            self._second, self._time = second, time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))
        return f"{self._time},{int(record.msecs):03d}"

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # the base class's name
        facts = [f" {name}={_shown(value)}" for name, value in vars(record).items() if name not in _STANDARD]
        return super().formatMessage(record) + "".join(facts)


def _shown(value: object) -> str:
    if isinstance(value, str):
        text = value
    elif type(value) in {int, float}:
        return repr(value)
    else:
        text = json.dumps(value, default=str)
    return json.dumps(text) if not text or _QUOTED.search(text) else text


def configure(level: str) -> None:
    """Send the log of *level* and above to stderr; libraries' only from WARNING."""
    handler = logging.StreamHandler()
    handler.setFormatter(FactsFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("satchel").setLevel(level.upper())
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False  # no line shows them
