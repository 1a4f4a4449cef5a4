"""Loads an app: a user's Python file, and every Worker at its module level."""

import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from satchel.errors import InvalidRequest, SatchelError
from satchel.worker.worker import Worker

MODULE: Final = "satchel_app"
"""What an app's module is called when a module of its file's name is there already."""


def load_app(path: str | Path) -> list[Worker[Any]]:
    """Import the file at *path*, with its directory on ``sys.path``; return its workers in order.

    Raises ``InvalidRequest`` if it is no file, fails to import (with its own traceback),
    or holds no Worker; or if one has no handler or two have one name.
    """
    file = Path(path).resolve()
    if not file.is_file():
        raise InvalidRequest(f"There is no file {path}.", hint="APP is a Python file that makes a satchel.Worker.")
    found = list({id(value): value for value in vars(_imported(file)).values() if isinstance(value, Worker)}.values())
    if not found:
        raise InvalidRequest(
            f"{path} has no Worker.", hint='Write worker = Worker("name") at its module level, not in a function.'
        )
    names: set[str] = set()
    for worker in found:
        _ = worker.handler  # raises if there is none
        if worker.name in names:
            raise InvalidRequest(f"{path} has two workers named {worker.name!r}.", hint="One Worker is one agent.")
        names.add(worker.name)
    return found


def _imported(file: Path) -> ModuleType:
    name = file.stem if file.stem.isidentifier() and file.stem not in sys.modules else MODULE
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise InvalidRequest(f"{file} is not a Python file.", hint="Its name ends in .py.")
    module = importlib.util.module_from_spec(spec)
    if str(file.parent) not in sys.path:
        sys.path.insert(0, str(file.parent))
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except SatchelError:
        del sys.modules[name]
        raise
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise InvalidRequest(f"{file.name} could not be imported:\n{_told(error, file)}") from error
    return module


def _told(error: BaseException, file: Path) -> str:
    """Return the traceback from the user's file on, without the import machinery before it."""
    step = error.__traceback__
    while step is not None and step.tb_frame.f_code.co_filename != str(file):
        step = step.tb_next
    return "".join(traceback.format_exception(type(error), error, step)).rstrip()
