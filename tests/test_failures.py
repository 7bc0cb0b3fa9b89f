"""A failure on a line can be grouped, and shows nothing that the application has hidden."""

import functools
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp.web_log import AccessLogger
from werkzeug.routing import Map, Rule

from otel_logging import bind_context, configure_logging, get_logger, traced
from otel_logging.testing import Captured, capture
from tests.programs import child_environment, good, parsed, python, script


@pytest.fixture
def seen() -> Iterator[Captured]:
    with capture(log_level="info") as captured:
        yield captured


@pytest.fixture
def shop() -> Iterator[logging.Logger]:
    logger = logging.getLogger("shop")
    yield logger
    logger.filters.clear()
    logger.handlers.clear()


def buy(item: str) -> None:
    raise LookupError(f"no {item}")


def test_an_exception_is_three_fields_beside_its_traceback(seen: Captured) -> None:
    """The place is the innermost one in the application's own code, not in a library's."""
    try:
        buy("tea")
    except LookupError:
        get_logger("shop").exception("failed")
    try:
        Map([Rule("/<odd:x>")])  # raises deep in werkzeug
    except LookupError as error:
        logging.getLogger("shop").warning("failed", exc_info=error)
    get_logger("shop").warning("failed", exc_info=KeyError("never raised"))
    first, second, third = seen.lines
    assert first["exception.type"] == "LookupError"
    assert first["exception.message"] == "no tea"
    assert first["exception.where"].endswith(f"{__file__}:{line_of(buy)} in buy")
    test = "test_an_exception_is_three_fields_beside_its_traceback"
    assert second["exception.where"].endswith(f" in {test}")
    assert third["exception.type"] == "KeyError"
    assert "exception.where" not in third


@pytest.mark.parametrize(
    ("file", "is_application"),
    [
        ("/srv/shop/basket.py", True),
        (f"{sys.prefix}/bin/shop.py", True),  # put there by hand
        (f"{sys.prefix}/bin/shop", False),  # made by an installer
        (json.decoder.__file__, False),
        ("<frozen runpy>", False),
        ("<stdin>", True),
        ("<ipython-input-3-0f5a1b>", True),
        ("<doctest shop.md[2]>", True),
        ("<sqlalchemy generated warned() wrapper for sqlalchemy.orm.Session._flush>", False),
        ("<attrs generated init shop.Order>", False),
        ("<decorator-gen-12>", False),
        ("/srv/.venv/lib/python3/site-packages/redis/client.py", False),
        ("/usr/lib/python3/dist-packages/redis/client.py", False),
        (r"C:\shop\.venv\Lib\site-packages\redis\client.py", False),
    ],
)
def test_a_file_is_the_application_s_unless_it_is_installed(
    file: str, is_application: bool, seen: Captured
) -> None:
    """Where it is, the place of an exception that is raised there."""
    code = compile("def get():\n    raise LookupError", file, "exec")
    names: dict[str, Any] = {}
    exec(code, names)
    try:
        names["get"]()
    except LookupError:
        get_logger("shop").exception("failed")
    where = seen.lines[0]["exception.where"]
    assert where.startswith(f"{file}:2 in" if is_application else f"{__file__}:")


def test_a_package_that_a_later_set_up_names_is_the_application_s(
    seen: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no longer where a test has named it, once its block has ended."""
    names: dict[str, Any] = {}
    file = "/srv/.venv/lib/python3/site-packages/shopapp/basket.py"
    exec(compile("def get():\n    raise LookupError", file, "exec"), names)

    def fail() -> None:
        try:
            names["get"]()
        except LookupError:
            get_logger("shop").exception("failed")

    fail()
    with capture() as inner:
        monkeypatch.setenv("OTEL_LOGGING_APPLICATION", "shopapp")
        configure_logging()
        fail()
    fail()
    wheres = [line["exception.where"] for line in (*seen.lines, *inner.lines)]
    assert [where.startswith(file) for where in wheres] == [False, False, True]


SHOP = """
from contextlib import suppress
from dataclasses import dataclass
from sqlalchemy import create_engine, exc, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool
from otel_logging import get_logger, setup_observability, traced

@dataclass(order=True)
class Order:
    total: int | None

setup_observability("shop")
options = {"poolclass": QueuePool, "pool_size": 1, "max_overflow": 0, "pool_timeout": 0.3}
engine = create_engine("sqlite://", **options)
taken = engine.connect()
with traced("waits", budget=0.1), Session(engine) as db, suppress(exc.TimeoutError):
    db.execute(text("select 1"))
try:
    Order(1) < Order(None)
except TypeError:
    get_logger("shop").exception("failed")
"""
SLEEPS = """
import time
from otel_logging import setup_observability, traced
setup_observability("shop")
with traced("sleeps", budget=0.05):
    time.sleep(0.1)
"""


def test_code_that_a_library_makes_is_not_the_application_s(tmp_path: Path) -> None:
    """What SQLAlchemy and dataclasses make has the name that Python gives to what ``-c`` runs."""
    file = tmp_path / "shop.py"
    file.write_text(SHOP)
    environment = child_environment(ENVIRONMENT="production")
    waits, failed = parsed(good(python(file, env=environment, text=False)).stdout)
    assert waits["late.detail"].startswith("<module> (shop.py:18) [in QueuePool._do_get (")
    assert failed["exception.where"] == f"{file}:20 in <module>"
    (sleeps,) = parsed(script(SLEEPS, ENVIRONMENT="production").stdout)
    assert sleeps["late.detail"] == "<module> (<string>:6)"


def line_of(function: Any) -> int:
    return int(function.__code__.co_firstlineno) + 1


def test_fields_of_the_call_win(seen: Captured) -> None:
    log = get_logger("shop")
    log.error("failed", exc_info=ValueError("x"), **{"exception.type": "Own", "other": 1})
    assert seen.lines[0]["exception.type"] == "Own"
    assert seen.lines[0]["exception.message"] == "x"


def hide(record: logging.LogRecord) -> bool:
    record.msg, record.args = record.getMessage().replace("s3cret", "***"), ()
    return True


class Filtering(logging.Handler):
    """A handler whose class filters."""

    def filter(self, record: logging.LogRecord) -> Any:
        return "s3cret" in str(record.args) or hide(record)


@pytest.mark.parametrize("on", ["logger", "handler", "root handler", "class", "none"])
@pytest.mark.parametrize("call", ["logger", "adapter", "mapping", "record"])
def test_arguments_that_do_not_fit_pass_by_no_filter(
    on: str, call: str, shop: logging.Logger, seen: Captured
) -> None:
    """A filter that hides something cannot do so in a message that it cannot read."""
    root = logging.Handler()
    handler = Filtering() if on == "class" else logging.Handler()
    shop.addHandler(handler)
    logging.root.addHandler(root)
    owner = {"logger": shop, "handler": handler, "root handler": root}.get(on)
    if owner is not None:
        # as one that leaves alone what it cannot read
        owner.addFilter(lambda record: "s3cret" in str(record.args) or hide(record))
    if call == "logger":
        shop.warning("%d items", "s3cret")
    elif call == "adapter":
        logging.LoggerAdapter(shop, {"n": 1}).warning("%d items", "s3cret")
    elif call == "mapping":
        shop.warning("%(n)d items", {"n": "s3cret"})
    else:
        values = {"name": "shop", "levelno": 30, "msg": "%d items", "args": ("s3cret",)}
        shop.handle(logging.makeLogRecord(values))
    logging.root.removeHandler(root)
    (line,) = seen.lines
    assert "format_error" in line
    assert ("s3cret" in str(line)) is (on == "none")
    assert ("format_args" in line) is (on == "none")


def test_fields_that_repeat_the_message_are_left_out(seen: Captured) -> None:
    """Of aiohttp's access log and websockets' connections; the application's own logger's stay."""
    extra = dict.fromkeys(("remote_address", "response_status", "websocket", "mine"), 1)
    logging.getLogger("aiohttp.access").info("127.0.0.1 200", extra=extra)
    logging.getLogger("shop").info("m", extra=extra)
    logging.getLogger("websockets.server").warning("connection open", extra=extra)
    first, second, third = seen.lines
    assert extra.keys() - first.keys() == {"remote_address", "response_status"}
    assert second.keys() >= extra.keys()
    assert extra.keys() - third.keys() == {"websocket"}


def test_the_names_are_aiohttps() -> None:
    from otel_logging.logs.stdlib import _REPEATED

    names = {
        each if type(each) is str else each[0] for each in AccessLogger.LOG_FORMAT_MAP.values()
    }
    assert names <= {*_REPEATED["aiohttp"]}


class Address:
    """An object without a ``repr`` of its own."""

    def met(self) -> None:
        """Do nothing."""


class Told(Address):
    def __repr__(self) -> str:
        return "told at 0x7f00"  # of its own world


def test_no_field_says_where_an_object_is_in_memory(seen: Captured) -> None:
    """However it got on the line; texts of the application are left as they are."""
    fields = {
        "a": Address(),
        "b": buy,
        "c": Told(),
        "d": "<x at 0x7f00aa00bb00>",
        "e": [Address(), {"f": Address().met}],
        "g": functools.partial(buy, Address()),
    }
    name = f"<{__name__}.Address object>"
    logging.getLogger("shop").info("m", extra=fields)
    get_logger("shop").info("m", **fields)
    get_logger("shop").bind(**fields).info("m")
    with traced("stage"):
        bind_context(**fields)
        logging.getLogger("shop").info("m")
    for line in seen.lines:
        assert {key: line[key] for key in fields} == {
            "a": name,
            "b": "<function buy>",
            "c": "told at 0x7f00",
            "d": "<x at 0x7f00aa00bb00>",
            "e": [name, {"f": f"<bound method Address.met of {name}>"}],
            "g": f"functools.partial(<function buy>, {name})",
        }
    assert "at 0x" not in str(seen.span("stage")["attributes"] | {"c": 0, "d": 0})
