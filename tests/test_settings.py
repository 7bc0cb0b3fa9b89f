"""What was asked for, from where, and what is said of what cannot be."""

import ast
import base64
import dataclasses
import inspect
import logging
import math
import os
import re
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from django.utils.functional import lazystr
from hypothesis import example, given
from hypothesis import strategies as st

from otel_logging import (
    ConfigurationError,
    Redaction,
    _names,
    _parse,
    configure_logging,
    setup_observability,
)
from otel_logging.settings import (
    SAMPLERS,
    Exporter,
    Limits,
    Settings,
    load,
    nameless,
    spool_base,
)
from otel_logging.settings.links import jaeger_url, takes_links
from otel_logging.settings.logs import load_logs
from otel_logging.spool import directories
from tests.lines import ROOT
from tests.programs import child_environment, python, script


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No variable of ours is set, and the working directory is an empty one."""
    for name in list(os.environ):
        if name.startswith(("OTEL_", "LOG_LEVEL")) or name in (
            *("ENVIRONMENT", "NO_COLOR", "FORCE_COLOR"),
        ):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ---------------------------------------------------------------- precedence


def test_without_variables_and_arguments_settings_have_their_defaults() -> None:
    """With nothing asked for, this is what holds."""
    settings = load(environment="production")
    assert settings.service_name == nameless()
    assert settings.resource == {"service.name": nameless()}
    assert settings.level is None
    assert settings.levels == {}
    assert settings.line_bytes == 4096
    assert dataclasses.asdict(settings.exporter) == dataclasses.asdict(Exporter())
    assert dataclasses.asdict(settings.limits) == dataclasses.asdict(Limits())
    assert (settings.sampler, settings.sampler_ratio) == ("parentbased_always_on", 1.0)
    assert (settings.traces, settings.log_exporter) == (True, None)
    assert (settings.who, settings.propagate, settings.budgets) == (("user_id",), (), {})
    assert (settings.spool_dir, settings.spool_bytes, settings.spool_hours) == (None, 64 << 20, 24)
    assert not settings.temporary
    assert settings.remarks == ()


def test_an_argument_wins_over_the_environment_and_that_over_dotenv(
    clean: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Argument, environment, .env, default: the first one there is."""
    assert load().level is None
    (clean / ".env").write_text("LOG_LEVEL=error\nOTEL_SERVICE_NAME=from-dotenv\n")
    assert load().level == logging.ERROR
    assert load().service_name == "from-dotenv"
    monkeypatch.setenv("LOG_LEVEL", "debug")
    assert load().level == logging.DEBUG
    assert load(log_level="critical").level == logging.CRITICAL
    assert load("given").service_name == "given"


def test_an_empty_variable_is_an_unset_one(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenTelemetry has it so, and what is behind it counts."""
    (clean / ".env").write_text("LOG_LEVEL=error\nOTEL_SERVICE_NAME=\n")
    monkeypatch.setenv("LOG_LEVEL", "  ")
    assert load().level == logging.ERROR
    assert load().service_name == nameless()


def test_dotenv_is_read_in_the_working_directory_alone(
    clean: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in one above it: that may be another project's."""
    (clean / ".env").write_text("LOG_LEVEL=error\n")
    below = clean / "below"
    below.mkdir()
    monkeypatch.chdir(below)
    assert load().level is None


def test_dotenv_is_never_exported(clean: Path) -> None:
    """A child process, or another library, does not see it."""
    (clean / ".env").write_text("LOG_LEVEL=error\nANOTHERS_SECRET=x\n")
    before = dict(os.environ)
    load()
    load_logs()
    assert dict(os.environ) == before


def test_dotenv_of_a_windows_editor(clean: Path) -> None:
    """A byte order mark is not part of the first name."""
    (clean / ".env").write_bytes(b"\xef\xbb\xbfLOG_LEVEL=error\r\nLOG_LEVELS='shop=debug'\r\n")
    assert load().level == logging.ERROR
    assert load().levels == {"shop": logging.DEBUG}


def test_a_malformed_line_of_dotenv_is_skipped(
    clean: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The file is other tools' as well: python-dotenv warns, the rest counts."""
    (clean / ".env").write_text("LOG_LEVEL=error\n{ not a line }\n")
    assert load().level == logging.ERROR
    assert "could not parse" in caplog.text


def test_dotenv_that_is_not_text_is_an_error(clean: Path) -> None:
    """What was written there on purpose would silently not hold."""
    (clean / ".env").write_bytes(b"LOG_LEVEL=\xff\xfe\n")
    with pytest.raises(ConfigurationError, match=r"\.env.*cannot be read"):
        load()


def test_a_directory_called_dotenv_is_ignored(clean: Path) -> None:
    """Virtual environments are called so."""
    (clean / ".env").mkdir()
    assert load().level is None


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps a directory that is in use")
def test_a_working_directory_that_is_gone(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no .env in it."""
    gone = clean / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    shutil.rmtree(gone)
    monkeypatch.setenv("LOG_LEVEL", "warning")
    assert load().level == logging.WARNING


@pytest.mark.skipif(sys.platform == "win32", reason="there is no other user to be")
def test_a_working_directory_that_may_not_be_entered(clean: Path) -> None:
    """A service whose user may not look there starts all the same."""
    code = """
import os, sys
from otel_logging.settings.logs import load_logs
os.chdir(sys.argv[1])
os.chmod(sys.argv[1], 0)
if os.getuid() == 0:
    os.setuid(65534)
print(load_logs().level)
"""
    locked = clean / "locked"
    locked.mkdir()
    try:
        assert script(code, str(locked)).stdout == b"None\n"
    finally:
        locked.chmod(0o700)


# ---------------------------------------------------------------- one value each


LEVELS: dict[Any, int] = {
    "notset": 0,
    "debug": 10,
    "DEBUG": 10,
    " Info ": 20,
    "warn": 30,
    "Warning": 30,
    "error": 40,
    "critical": 50,
    "FATAL": 50,
    "15": 15,
    15: 15,
}


@pytest.mark.parametrize(("given", "number"), LEVELS.items())
def test_log_level_takes_names_in_any_case_and_numbers(given: Any, number: int) -> None:
    """Names in any case, or numbers."""
    assert _parse.level("LOG_LEVEL", given) == number
    assert load(log_level=given).level == number


@pytest.mark.parametrize("given", ["loud", "-1", "1.5", "", True, None, 1.5, [], "9" * 5000])
def test_an_invalid_log_level_is_an_error_that_lists_the_levels(given: Any) -> None:
    """Anything else is an error that says what is allowed."""
    with pytest.raises(ConfigurationError, match=r"^LOG_LEVEL=.*: a level is one of notset, debug"):
        _parse.level("LOG_LEVEL", given)


def test_log_levels_takes_text_and_mappings(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the variable as text, from the argument as text or as a mapping."""
    wanted = {"uvicorn.access": 30, "shop": 10}
    monkeypatch.setenv("LOG_LEVELS", "uvicorn.access=warning, shop=DEBUG,")
    assert load().levels == wanted
    assert load_logs(log_levels="uvicorn.access=30,shop=10").levels == wanted
    assert load_logs(log_levels={"uvicorn.access": "warning", "shop": 10}).levels == wanted


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("shop", "LOG_LEVELS='shop': pairs like"),
        ("=debug", "LOG_LEVELS='=debug': pairs like"),
        ("shop=loud", "LOG_LEVELS: shop='loud': a level is one of"),
        ("shop=", "LOG_LEVELS: shop='': a level is one of"),
    ],
)
def test_invalid_levels_by_logger(given: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the logger too."""
    monkeypatch.setenv("LOG_LEVELS", given)
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        load()


@given(st.floats() | st.integers() | st.text() | st.booleans() | st.none() | st.lists(st.none()))
def test_seconds_are_positive_and_finite(value: Any) -> None:
    """Whatever is given: seconds, or an error."""
    try:
        seconds = _parse.seconds("budget", value)
    except ConfigurationError:
        return
    assert math.isfinite(seconds)
    assert seconds > 0
    assert seconds == float(value)


BAD_ARGUMENTS: list[tuple[str, Any, str]] = [
    ("service_name", "", "service_name='': a name"),
    ("service_name", "  ", "service_name='  ': a name"),
    ("service_name", 5, "service_name=5: a name"),
    ("environment", "", "environment='': a name like development"),
    ("environment", "in production", "environment='in production': a name like"),
    ("environment", 1, "environment=1: a name like"),
    ("log_level", "loud", "log_level='loud': a level"),
    ("endpoint", "collector:4318", "endpoint='collector:4318': a URL like"),
    ("endpoint", "http://", "endpoint='http://': a URL like"),
    ("endpoint", "http://host:99999", "a URL like http://localhost:4318"),
    ("endpoint", "http://[::1", "a URL like"),
    ("endpoint", "", "endpoint='': a URL like"),
    ("endpoint", 4318, "endpoint=4318: a URL like"),
    ("budgets", {"answer": 0}, "budgets: answer=0: a positive number of seconds"),
    ("budgets", {"answer": "soon"}, "budgets: answer='soon': a positive number"),
    ("budgets", {"answer": True}, "budgets: answer=True: a positive number"),
    ("budgets", {"answer": 10**400}, "a positive number of seconds"),
    ("budgets", 0.3, "budgets=0.3: seconds by stage name"),
    ("takeover", "yes", "takeover='yes': one of true, false"),
    ("who", 5, "who=5: a sequence of names"),
    ("who", ("",), "who=('',): a sequence of names"),
    ("propagate", [1], "propagate=[1]: a sequence of names"),
    ("propagate", ["a b"], "propagate=['a b']: names without spaces"),
    ("budgets", {5: 1}, "budgets=5: a name that is not empty"),
    ("budgets", {"x": "1"}, "budgets: x='1': a positive number"),
    ("spool_dir", "", "spool_dir='': a directory"),
    ("spool_dir", " \n", r"spool_dir=' \n': a directory"),
    ("spool_dir", 5, "spool_dir=5: a directory"),
    ("spool_dir", "~nobody-of-that-name/x", "a directory"),
]


@pytest.mark.parametrize(("argument", "value", "said"), BAD_ARGUMENTS)
def test_a_bad_argument_is_an_error_at_once(argument: str, value: Any, said: str) -> None:
    """It names the argument, the value and what is allowed."""
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        load(**{argument: value})


ARGUMENTS = {*inspect.signature(setup_observability).parameters, "log_levels"}
_ODD = st.sampled_from(
    [
        *(b"x", 1 + 2j, math.nan, -math.inf, 10**400, Decimal("sNaN"), object(), len, int, ...),
        *(lazystr("shop"), lazystr("debug"), lazystr("http://h:1"), range(2), Path("/dev/null/x")),
        *("x" * 100_000, "\x00", "\ud800", "http://[::1", "~nobody-of-that-name", {"a": math.nan}),
        *({1: 2}, {"": 1}, {"a": None}, [None], ["\x00"], frozenset({1}), ValueError("x")),
    ]
)
GARBAGE = _ODD | st.text(max_size=9) | st.binary(max_size=3) | st.integers() | st.floats()
GARBAGE |= st.booleans() | st.lists(GARBAGE, max_size=2) | st.dictionaries(st.text(), GARBAGE)


def refusal(call: Callable[[], object]) -> str:
    """Return what the ``ConfigurationError`` of *call* says; empty where it raises nothing."""
    try:
        call()
    except ConfigurationError as error:
        return str(error)
    return ""


@given(st.sampled_from(sorted(ARGUMENTS)), GARBAGE)
@example("instrument", [{"a": 1}])
def test_any_argument_is_taken_or_an_error_that_names_it(argument: str, value: Any) -> None:
    """Nothing else is raised, whatever is given; what is said fits a screen."""
    said = refusal(lambda: load(**{argument: value}))
    assert re.match(rf"$|{argument}(:.*)?=", said, re.DOTALL)
    assert len(said) <= 1500


@given(st.sampled_from(["keys", "patterns", "allow", "personal", "salt"]), GARBAGE)
def test_any_argument_of_a_redaction_is_taken_or_an_error(argument: str, value: Any) -> None:
    """A salt is not shown, of whatever type."""
    said = refusal(lambda: Redaction(**{argument: value}))
    assert re.match(rf"$|Redaction: {argument}=", said)
    assert argument != "salt" or re.fullmatch("|Redaction: salt=<class '.*'>: a string", said)


@example("OTEL_LOGGING_REDACT_SALT", "\udcff")
@given(
    st.deferred(lambda: st.sampled_from(sorted(variables_there_are()))),
    st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=9)
    | st.sampled_from(["a=nan", "a=-1", "=1", ",,", "a=%ff", "9" * 30, "x" * 9999, "1e999", "((("])
    | st.sampled_from(["http://u:p@h", "none,asgi", "\udcff", "~nobody-of-that-name", "/dev/null"]),
)
def test_any_variable_is_taken_or_an_error_that_names_it(name: str, value: str) -> None:
    """As an argument."""
    with patch.dict(os.environ, {name: value, "OTEL_LOGS_EXPORTER": "otlp"}):
        said = refusal(lambda: load(environment="production"))
    assert re.match(rf"$|{name}(:.*)?=", said, re.DOTALL)
    assert len(said) <= 1500


def test_bad_levels_by_logger_as_an_argument() -> None:
    """Neither text nor mapping."""
    with pytest.raises(ConfigurationError, match=r"log_levels=\['shop'\]: levels by logger name"):
        load_logs(log_levels=["shop"])  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="log_levels=1: a name that is not empty"):
        load_logs(log_levels={1: "debug"})  # type: ignore[dict-item]


BAD_VARIABLES = [
    ("ENVIRONMENT", "in production", "ENVIRONMENT='in production': a name like"),
    ("LOG_LEVEL", "loud", "LOG_LEVEL='loud': a level is one of"),
    ("OTEL_LOGGING_LINE_BYTES", "511", "a whole number from 512"),
    ("OTEL_LOGGING_LINE_BYTES", "many", "OTEL_LOGGING_LINE_BYTES='many': a whole number"),
    ("OTEL_LOGGING_SPOOL_BYTES", "1", "OTEL_LOGGING_SPOOL_BYTES='1': a whole number from 900000"),
    ("OTEL_LOGGING_SPOOL_HOURS", "-1", "OTEL_LOGGING_SPOOL_HOURS='-1': a positive number"),
    ("OTEL_RESOURCE_ATTRIBUTES", "a", "OTEL_RESOURCE_ATTRIBUTES='a': pairs like key=value"),
    ("OTEL_RESOURCE_ATTRIBUTES", "=b", "OTEL_RESOURCE_ATTRIBUTES='=b': pairs like key=value"),
    ("OTEL_RESOURCE_ATTRIBUTES", "a=%ZZ", "percent-encoded UTF-8"),
    ("OTEL_RESOURCE_ATTRIBUTES", "a=%FF", "percent-encoded UTF-8"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://local host", "a URL like"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://host/x#y", "a URL like"),
    ("OTEL_SDK_DISABLED", "yes", "OTEL_SDK_DISABLED='yes': one of true, false"),
    ("OTEL_TRACES_EXPORTER", "jaeger", "OTEL_TRACES_EXPORTER='jaeger': one of otlp, none"),
    ("OTEL_LOGS_EXPORTER", "console", "OTEL_LOGS_EXPORTER='console': one of otlp, none"),
    ("OTEL_TRACES_SAMPLER", "sometimes", "OTEL_TRACES_SAMPLER='sometimes': one of always_on"),
    ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "one of http/protobuf, grpc"),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "host", "OTEL_EXPORTER_OTLP_ENDPOINT='host': a URL like"),
    ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "host", "OTLP_TRACES_ENDPOINT='host': a URL like"),
    ("OTEL_EXPORTER_OTLP_TIMEOUT", "0", "OTEL_EXPORTER_OTLP_TIMEOUT='0': a positive number"),
    ("OTEL_EXPORTER_OTLP_COMPRESSION", "deflate", "one of none, gzip"),
    ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/no/file", "='/no/file': a file that exists"),
    ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/no/file", "='/no/file': a file that exists"),
    ("OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE", "/no/file", "a file that exists"),
    ("OTEL_SPAN_EVENT_COUNT_LIMIT", "0", "OTEL_SPAN_EVENT_COUNT_LIMIT='0': a whole number from 1"),
    ("OTEL_ATTRIBUTE_COUNT_LIMIT", "-1", "OTEL_ATTRIBUTE_COUNT_LIMIT='-1': a whole number from 0"),
    ("OTEL_SPAN_LINK_COUNT_LIMIT", "9" * 5000, "a whole number from 0"),
]


@pytest.mark.parametrize(("variable", "value", "said"), BAD_VARIABLES)
@pytest.mark.parametrize("dotenv", [False, True])
def test_a_bad_variable_is_an_error_at_once(
    variable: str,
    value: str,
    said: str,
    dotenv: bool,
    clean: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It names the variable, the value and what is allowed, wherever it stands."""
    if dotenv:
        (clean / ".env").write_text(f"{variable}='{value}'\n")
    else:
        monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError, match=re.escape(said)):
        load()


@pytest.mark.parametrize("value", ["nan", "half", ""])
def test_a_ratio_outside_0_to_1_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From 0 to 1, also where the sampler takes none."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", value)
    for sampler in ("", "traceidratio"):
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
        if value:
            with pytest.raises(ConfigurationError, match=r"OTEL_TRACES_SAMPLER_ARG=.*from 0 to 1"):
                load()
        else:
            assert load().sampler_ratio == 1.0


@pytest.mark.parametrize("value", ["1.5", "-0.1"])
def test_a_ratio_out_of_range_is_reported_and_ignored(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by OpenTelemetry's SDK; where the sampler takes none, nobody is told."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", value)
    assert load().remarks == ()
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    settings = load()
    assert settings.sampler_ratio == 1.0
    said = f"OTEL_TRACES_SAMPLER_ARG={value} is ignored: it is not from 0 to 1"
    assert settings.remarks == (said,)


def test_secrets_are_not_in_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error is printed; headers and the user part of a URL hold passwords."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization Bearer s3cret")
    with pytest.raises(ConfigurationError) as caught:
        load()
    assert str(caught.value).startswith("OTEL_EXPORTER_OTLP_HEADERS=…: pairs like")
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_HEADERS")
    with pytest.raises(ConfigurationError) as caught:
        load(endpoint="http://me:s3cret@host:port/")
    assert "s3cret" not in str(caught.value)
    assert "http://…@host:port/" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("OTEL_RESOURCE_ATTRIBUTES", "password=s3cret,a", "='password=[redacted:password]': pairs"),
        ("OTEL_RESOURCE_ATTRIBUTES", "token=%zzs3cret", "='token=[redacted:token]': percent"),
        ("LOG_LEVEL", "Bearer s3cret", "='Bearer [redacted:bearer]': a level"),
        ("OTEL_LOGGING_BUDGETS", "api_key=s3cret", ": api_key='[redacted:key]': a positive"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/s3/a.pem", "='/s3/a.pem': a file that exists"),
        ("OTEL_LOGGING_SPOOL_DIR", "/proc/pin=s3cret", "='/proc/pin=[redacted:otp]': a directory"),
    ],
)
def test_no_value_of_an_error_has_a_secret(
    name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whichever variable it was pasted into; nor what the system says of it."""
    monkeypatch.setenv("OTEL_LOGGING_SPOOL_DIR", str(tmp_path))
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as caught:
        setup_observability("shop", environment="production", endpoint="http://127.0.0.1:9")
    assert str(caught.value).startswith(name + said)
    assert "s3cret" not in str(caught.value)


# ---------------------------------------------------------------- groups of values


@pytest.mark.parametrize("name", ["development", "Development", "dev", "local", "test"])
def test_environments_that_people_watch_have_console_lines(name: str) -> None:
    """A person looks at these."""
    settings = load_logs(environment=name)
    assert settings.console
    assert settings.environment == name.lower()


@pytest.mark.parametrize("name", ["production", "staging", "eu-west.1", "qa_2"])
def test_other_environments_have_json_lines(name: str) -> None:
    """A log collector looks at all others."""
    assert not load_logs(environment=name).console


def test_under_pytest_the_environment_is_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """And then the spool is temporary, and there is no network unless asked for by argument."""
    settings = load()
    assert settings.environment == "test"
    assert settings.temporary
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://host:1")
    assert not load().exporter.network
    assert load(endpoint="http://host:1").exporter.network
    assert load(environment="production").exporter.network
    assert not load(spool_dir="here").temporary


SHOW = """
from otel_logging.settings.logs import load_logs
settings = load_logs()
print(settings.environment, settings.color)
"""


def test_without_a_terminal_the_environment_is_production() -> None:
    """And without colours, unless they are forced."""
    assert script(SHOW).stdout == b"production False\n"
    assert script(SHOW, FORCE_COLOR="1").stdout == b"production True\n"
    assert script(SHOW, FORCE_COLOR="0").stdout == b"production False\n"
    assert script(SHOW, FORCE_COLOR="1", NO_COLOR="1").stdout == b"production False\n"


class Terminal:
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_the_environment_is_development(monkeypatch: pytest.MonkeyPatch) -> None:
    """With colours, unless they are not wanted or the terminal has none."""
    monkeypatch.delitem(sys.modules, "pytest")
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    assert (load_logs().environment, load_logs().color) == ("development", True)
    monkeypatch.setenv("TERM", "dumb")
    assert not load_logs().color
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert not load_logs().color


LINKING = [
    {"WT_SESSION": "1"},
    {"KITTY_WINDOW_ID": "1"},
    {"KONSOLE_VERSION": "230400"},
    {"TERM_PROGRAM": "iTerm.app"},
    {"TERM_PROGRAM": "vscode"},
    {"TERM_PROGRAM": "ghostty"},
    {"VTE_VERSION": "7600"},
    {"FORCE_HYPERLINK": "1"},
    {"FORCE_HYPERLINK": "1", "TMUX": "/tmp/tmux"},
]
NOT_LINKING = [
    {},
    {"TERM_PROGRAM": "Apple_Terminal"},
    {"TERM": "alacritty"},
    {"VTE_VERSION": "7600", "TERM": "dumb"},
    {"WT_SESSION": "1", "TERM": "dumb"},
    {"FORCE_HYPERLINK": "1", "TERM": "dumb"},
    {"WT_SESSION": "1", "FORCE_HYPERLINK": "0"},
    {"KITTY_WINDOW_ID": "1", "TMUX": "/tmp/tmux"},
    {"KITTY_WINDOW_ID": "1", "STY": "1.pts"},
    {"VTE_VERSION": "7600", "TMUX": "/tmp/tmux"},
]


@pytest.fixture
def said_by_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known of the terminal that the tests run in."""
    for name in {name for variables in LINKING + NOT_LINKING for name in variables}:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


@pytest.mark.usefixtures("said_by_terminals")
@pytest.mark.parametrize("variables", LINKING + NOT_LINKING, ids=str)
def test_hyperlinks_go_to_terminals_that_are_known_to_take_them(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what they say of themselves; tmux and screen may keep them to themselves."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert not takes_links()  # it is no terminal

    monkeypatch.setattr(sys, "stdout", Terminal())

    assert takes_links() is (variables in LINKING)
    url = "http://localhost:16686"
    assert load_logs().links_to == (url if variables in LINKING else None)
    assert load(environment="x").links_to == load_logs().links_to


@pytest.mark.parametrize(
    "variables",
    [{"ENVIRONMENT": "test"}, {"OTEL_TRACES_EXPORTER": "none"}, {"OTEL_SDK_DISABLED": "true"}],
    ids=str,
)
def test_links_are_made_where_something_is_delivered(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others would lead nowhere."""
    for name, value in {"FORCE_HYPERLINK": "1", "ENVIRONMENT": "x", **variables}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdout", Terminal())

    assert load().links_to is None


@pytest.mark.parametrize(
    ("value", "url"),
    [
        ("", "http://localhost:16686"),
        ("http://jaeger:16686/", "http://jaeger:16686"),
        ("https://tools.example/jaeger", "https://tools.example/jaeger"),
    ],
)
def test_where_jaeger_is_asked(monkeypatch: pytest.MonkeyPatch, value: str, url: str) -> None:
    """Without a slash at its end."""
    monkeypatch.setenv("OTEL_LOGGING_JAEGER_URL", value)
    assert jaeger_url() == url


@pytest.mark.parametrize(
    "value", ["jaeger:16686", "ftp://jaeger", "http://me:secret@jaeger", "http://jaeger/?x=1"]
)
def test_an_invalid_jaeger_address_is_an_error(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """Also at set-up, whatever is linked; a password is not shown."""
    monkeypatch.setenv("OTEL_LOGGING_JAEGER_URL", value)
    with pytest.raises(ConfigurationError, match=r"OTEL_LOGGING_JAEGER_URL=.*a URL like") as raised:
        load()
    with pytest.raises(ConfigurationError):
        jaeger_url()
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("variables", "off_by"),
    [
        ({}, ""),
        ({"OTEL_TRACES_EXPORTER": "none"}, "OTEL_TRACES_EXPORTER=none"),
        ({"OTEL_SDK_DISABLED": "TRUE"}, "OTEL_SDK_DISABLED=true"),
    ],
)
def test_what_turned_tracing_off_is_known(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], off_by: str
) -> None:
    """Of what the doctor says then."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert (load().traces_off_by, load().traces) == (off_by, not off_by)


@pytest.mark.parametrize("stdout", [None, object()])
def test_a_missing_stdout_is_no_terminal(stdout: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service without one starts all the same."""
    monkeypatch.setattr(sys, "stdout", stdout)
    assert not load_logs().color


def test_service_name_and_resource(monkeypatch: pytest.MonkeyPatch) -> None:
    """Percent-encoded pairs; the name of the argument, of its variable, of the resource."""
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "a=1, b = x%2Cy ,c=d=e,service.name=r,")
    settings = load()
    assert settings.service_name == "r"
    assert settings.resource == {"a": "1", "b": "x,y", "c": "d=e", "service.name": "r"}
    monkeypatch.setenv("OTEL_SERVICE_NAME", "v")
    assert load().resource["service.name"] == load().service_name == "v"
    assert load("a").resource["service.name"] == load("a").service_name == "a"


ENDPOINTS = [
    ({}, None, "http://localhost:4318/v1/traces"),
    ({"PROTOCOL": "grpc"}, None, "http://localhost:4317"),
    ({"PROTOCOL": "GRPC"}, "https://host:1", "https://host:1"),
    ({"ENDPOINT": "http://host:1"}, None, "http://host:1/v1/traces"),
    ({"ENDPOINT": "http://host:1/"}, None, "http://host:1/v1/traces"),
    ({"ENDPOINT": "http://host:1/otlp/v1/traces"}, None, "http://host:1/otlp/v1/traces"),
    ({"ENDPOINT": "http://host:1"}, "http://given:2", "http://given:2/v1/traces"),
    ({"ENDPOINT": "http://host:1", "TRACES_ENDPOINT": "http://t:2/"}, None, "http://t:2/"),
    ({"TRACES_PROTOCOL": "grpc", "ENDPOINT": "http://host:1"}, None, "http://host:1"),
    ({"TRACES_PROTOCOL": "grpc", "ENDPOINT": "http://host:1/"}, None, "http://host:1/"),
    ({"ENDPOINT": "http://host:1?x=1"}, None, "http://host:1/v1/traces?x=1"),
    ({"ENDPOINT": "http://host:1/base?x=1&y"}, None, "http://host:1/base/v1/traces?x=1&y"),
    ({"ENDPOINT": "http://host:1/base//?x=/"}, None, "http://host:1/base/v1/traces?x=/"),
    ({"ENDPOINT": "http://h/v1/traces/?x=/v1/traces"}, None, "http://h/v1/traces?x=/v1/traces"),
    ({}, "http://host/a%2Fb/?", "http://host/a%2Fb/v1/traces"),
    ({}, "HTTP://[::1]:1/base", "http://[::1]:1/base/v1/traces"),
    ({}, "http://me:pw@[::1]?x=1", "http://[::1]/v1/traces?x=1"),
    ({"TRACES_ENDPOINT": "http://me:pw@t:2/in/?x=1"}, None, "http://t:2/in/?x=1"),
    ({"TRACES_ENDPOINT": "https://t"}, None, "https://t"),
]


@pytest.mark.parametrize(("variables", "argument", "endpoint"), ENDPOINTS)
def test_the_signals_path_is_appended_to_a_base_endpoint_once(
    variables: dict[str, str],
    argument: str | None,
    endpoint: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The path is appended as the specification says, and never twice; a query stays one."""
    for option, value in variables.items():
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_" + option, value)
    assert load(endpoint=argument).exporter.endpoint == endpoint


AUTHORIZATIONS: list[tuple[str, str | None]] = [
    ("http://host", None),
    ("http://@host", None),
    ("http://:@host", None),
    ("http://me:pw@host", "me:pw"),
    ("http://us%65r:p%40ss@host", "user:p@ss"),
    ("http://me@host", "me:"),
    ("http://:key@host", ":key"),
    ("http://me:a:b@host", "me:a:b"),
    ("http://me:p@ss@host", "me:p@ss"),
    ("http://m%C3%BC:%F0%9F%94%91%20%2F%3F%23%25@host", "mü:🔑 /?#%"),
]


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
@pytest.mark.parametrize(("url", "credentials"), AUTHORIZATIONS)
def test_the_user_of_a_url_is_basic_authentication(
    url: str, credentials: str | None, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Percent-decoded, in UTF-8, whichever names the endpoint; and it stays nowhere else."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    encoded = base64.b64encode((credentials or "").encode()).decode()
    wanted = () if credentials is None else (("authorization", f"Basic {encoded}"),)
    loaded = [load(endpoint=url)]
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        monkeypatch.setenv(name, url)
        loaded.append(load())
    for settings in loaded:
        assert settings.exporter.headers == wanted
        assert "@" not in settings.exporter.endpoint
        assert encoded not in repr(settings) or not encoded


def test_settings_are_never_changed() -> None:
    """What is set up is what was asked for."""
    settings = load(service_name="shop")
    with pytest.raises(AttributeError, match="sampler is a setting"):
        settings.sampler = "always_off"


@pytest.mark.parametrize("name", ["authorization", "Authorization", "AUTHORIZATION"])
def test_a_header_wins_over_the_user_of_a_url(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever set it has meant it; other headers are sent beside the user."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"{name}=Bearer%20key,x=1")
    exporter = load(endpoint="http://me:pw@host").exporter
    assert exporter.headers == ((name, "Bearer key"), ("x", "1"))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x=1")
    assert [key for key, _ in load(endpoint="http://me:pw@host").exporter.headers] == [
        "x",
        "authorization",
    ]


S3CRET = "s3cret"
UNSUPPORTED = [
    (
        "http/protobuf",
        "http://host/x#y",
        "http://host/x#…': a URL like http://localhost:4318, without a",
    ),
    ("http/protobuf", "unix:/run/otel.sock", "a URL like http://localhost:4318"),
    ("http/protobuf", "unix:///run/otel.sock", "unix:///run/otel.sock': a URL like"),
    ("http/protobuf", "http+unix://%2Frun%2Fotel.sock", "http+unix://%2Frun%2Fotel.sock': a URL"),
    ("http/protobuf", "ftp://me:s3cret@host", "ftp://…@host': a URL like"),
    ("http/protobuf", "grpc://host:4317", "grpc://host:4317': a URL like"),
    ("http/protobuf", "//me:s3cret@host", "a URL like"),
    ("http/protobuf", "me:s3cret@host", "…@host': a URL like"),
    ("http/protobuf", "http:me:s3cret@host", "…@host': a URL like"),
    ("http/protobuf", "http:/me:s3cret@host", "…@host': a URL like"),
    ("http/protobuf", "http://me:s3cret", "http://me:…': a URL like"),
    ("http/protobuf", "http://[::1]:s3cret", "http://[::1]:…': a URL like"),
    ("http/protobuf", "http://me:s3/cret@host", "http://…@host': a URL like"),
    ("http/protobuf", "http://me:1234/s3cret@host", "percent-encoded (/ is %2F"),
    ("http/protobuf", "http://me:s3?cret@host", "http://…': a URL like"),
    ("http/protobuf", "http://me:1?s3cret@host", "http://…': a URL like"),
    ("http/protobuf", "http://me:s3#cret@host", "http://…': a URL like"),
    ("http/protobuf", "http://me:s3cret@ho st?k=s3cret", "http://…@ho st?…': a URL like"),
    ("http/protobuf", "http://me:s3cret\n@host", "a URL like"),
    ("http/protobuf", "http://me:s3cret-é@host", "a URL like"),
    ("http/protobuf", "http://me:s3cret%@host", "user and password percent-encoded"),
    ("http/protobuf", "http://me:s3cret%ZZ@host", "user and password percent-encoded"),
    ("http/protobuf", "http://me:s3cret%FF@host", "user and password percent-encoded"),
    ("http/protobuf", "http://me:s3cret%0D%0Ax:y@host", "without a colon in the user, control"),
    ("http/protobuf", "http://m%3Ae:s3cret@host", "without a colon in the user"),
    ("http/protobuf", "http://host:0?key=s3cret", "http://host:0?…': a URL like"),
    ("http/protobuf", "http://host/x?key=s3cret#y", "http://host/x?…': a URL like"),
    ("http/protobuf", "http://ho%73t", "a URL like"),
    ("http/protobuf", "http://[fe80::1%25eth0]:1", "a URL like"),
    ("http/protobuf", "http://::1:4318", "a URL like"),
    ("http/protobuf", "'http://me:s3cret@host'", "a URL like"),
    ("grpc", "http://host:4317/v1/traces", "gRPC has no path and no query"),
    ("grpc", "http://me:s3cret@host:4317/x", "gRPC has no path and no query"),
    ("grpc", "http://host:4317?key=s3cret", "gRPC has no path and no query"),
    ("grpc", "host:4317", "host:4317': a URL like http://localhost:4317"),
    ("grpc", "unix:///run/otel.sock", "a URL like http://localhost:4317"),
    ("grpc", "dns:///me:s3cret@host:4317", "a URL like http://localhost:4317"),
]


@pytest.mark.parametrize("name", ["ENDPOINT", "TRACES_ENDPOINT"])
@pytest.mark.parametrize(("protocol", "url", "said"), UNSUPPORTED)
def test_an_endpoint_that_is_not_supported_is_an_error_without_a_password(
    protocol: str, url: str, said: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names the variable, and what would do."""
    variable = f"OTEL_EXPORTER_OTLP_{name}"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    monkeypatch.setenv(variable, url)
    with pytest.raises(ConfigurationError, match=f"^{variable}=") as raised:
        load()
    assert said in str(raised.value)
    assert "cret" not in "".join(traceback.format_exception(raised.value))
    monkeypatch.delenv(variable)
    with pytest.raises(ConfigurationError, match=r"^endpoint=") as raised:
        load(endpoint=url)
    assert "cret" not in str(raised.value)


def test_an_endpoint_is_shown_without_its_query() -> None:
    """But for its query it is whole: the spool's place is known by it."""
    for url in ("http://[::1]:1/v1/traces", "https://host:/a:b/v1/traces", "http://[::1]/a:b"):
        assert Exporter(endpoint=url).shown == url
        assert Exporter(endpoint=f"{url}?key=x:y").shown == f"{url}?…"


@pytest.mark.parametrize("value", [b"http://me:s3cret@host", ["http://me:s3cret@host"]])
def test_an_endpoint_that_is_not_text_is_shown_without_a_password(value: Any) -> None:
    """Whatever was given."""
    with pytest.raises(ConfigurationError, match=r"^endpoint=…@host") as raised:
        load(endpoint=value)
    assert S3CRET not in str(raised.value)


def test_a_url_in_the_wrong_variable_is_shown_without_a_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is easily put there."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http://me:s3cret@host?key=s3cret")
    with pytest.raises(ConfigurationError, match="PROTOCOL='http://…@host") as raised:
        load()
    assert S3CRET not in str(raised.value)


@given(
    st.text("ab1:/?#@%[] é\n", max_size=6),
    st.text("ab1:/?#@%[] é\n", max_size=6),
    st.sampled_from(["http://", "https://", "http:", "", "//", "unix://", "[", "1a://"]),
)
def test_a_password_is_in_no_error_and_not_in_the_endpoint(
    before: str, after: str, scheme: str
) -> None:
    """Whatever else stands in a URL with a user and a password."""
    try:
        shown = load(endpoint=f"{scheme}{before}:x{S3CRET}x{after}@host/path").exporter.endpoint
    except ConfigurationError as error:
        shown = str(error)
    assert S3CRET not in shown


def test_the_other_options_of_the_exporter(monkeypatch: pytest.MonkeyPatch, clean: Path) -> None:
    """Each has a variable for traces, which wins."""
    for name in ("ca.pem", "key.pem", "cert.pem"):
        (clean / name).touch()
    for option, value in {
        "HEADERS": "api-key=secret%20one,x=1",
        "TIMEOUT": "3",
        "TRACES_TIMEOUT": "2.5",
        "COMPRESSION": "GZIP",
        "CERTIFICATE": "ca.pem",
        "CLIENT_KEY": "./key.pem",
        "TRACES_CLIENT_CERTIFICATE": str(Path("cert.pem").absolute()),
    }.items():
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_" + option, value)
    expected = Exporter(
        headers=(("api-key", "secret one"), ("x", "1")),
        timeout_s=2.5,
        gzip=True,
        certificate=str(Path("ca.pem").absolute()),
        client_key=str(Path("key.pem").absolute()),
        client_certificate=str(Path("cert.pem").absolute()),
    )
    exporter = load(environment="production").exporter
    assert dataclasses.asdict(exporter) == dataclasses.asdict(expected)


@pytest.mark.parametrize("name", SAMPLERS)
def test_each_specified_sampler_is_taken_with_its_ratio(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of the specification's own; the ratio counts where the sampler has one."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", name)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.25")
    ratio = 0.25 if name.endswith("traceidratio") else 1.0
    assert (load().sampler, load().sampler_ratio) == (name, ratio)


def test_the_limit_of_all_attributes_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of all attributes holds where there is none of its own."""
    monkeypatch.setenv("OTEL_ATTRIBUTE_COUNT_LIMIT", "10")
    monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "0")
    monkeypatch.setenv("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "99")
    monkeypatch.setenv("OTEL_SPAN_EVENT_COUNT_LIMIT", "7")
    monkeypatch.setenv("OTEL_SPAN_LINK_COUNT_LIMIT", "3")
    expected = Limits(
        span_attributes=0,
        event_attributes=10,
        record_attributes=10,
        link_attributes=10,
        links=3,
        events=7,
        record_value_length=99,
        span_value_length=99,
        value_length=99,
    )
    assert dataclasses.asdict(load().limits) == dataclasses.asdict(expected)


def test_what_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Either variable leaves logging alone."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    assert not load().traces
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    assert load().traces
    monkeypatch.setenv("OTEL_LOGS_EXPORTER", "otlp")
    assert load().log_exporter
    monkeypatch.setenv("OTEL_SDK_DISABLED", "True")
    assert (load().traces, load().log_exporter) == (False, None)


@pytest.mark.parametrize(
    ("value", "records", "events"),
    [
        ("none", False, True),
        ("span", False, True),
        ("otlp", True, False),
        ("OTLP, span", True, True),
        ("span,otlp", True, True),
    ],
)
def test_otel_logs_exporter_decides_between_records_and_events(
    monkeypatch: pytest.MonkeyPatch, value: str, records: bool, events: bool
) -> None:
    """As log records, as events of their spans, or both."""
    monkeypatch.setenv("OTEL_LOGS_EXPORTER", value)
    settings = load()
    assert (settings.log_exporter is not None, settings.span_events) == (records, events)


@pytest.mark.parametrize("value", ["console", "otlp,none", "otlp,console", ","])
def test_other_otel_logs_exporters_are_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """An exporter of another's, or nothing and something at once."""
    monkeypatch.setenv("OTEL_LOGS_EXPORTER", value)
    with pytest.raises(ConfigurationError, match="one of otlp, none, or otlp,span"):
        load()


def test_who_propagate_and_spool_are_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name alone, a list, and a text with commas are the same."""
    monkeypatch.setenv("OTEL_LOGGING_SPOOL_DIR", "~/spool")
    monkeypatch.setenv("OTEL_LOGGING_SPOOL_BYTES", "900000")
    monkeypatch.setenv("OTEL_LOGGING_SPOOL_HOURS", "0.5")
    settings = load(who=["tenant", "user_id"], propagate={"tenant"}, budgets={"answer": 1})  # type: ignore[arg-type]
    assert (settings.who, settings.propagate) == (("tenant", "user_id"), ("tenant",))
    assert settings.budgets == {"answer": 1.0}
    assert settings.spool_dir == Path.home() / "spool"
    assert (settings.spool_bytes, settings.spool_hours) == (900_000, 0.5)
    monkeypatch.setenv("OTEL_LOGGING_WHO", "tenant, user_id")
    monkeypatch.setenv("OTEL_LOGGING_PROPAGATE", "tenant")
    assert (load().who, load().propagate) == (settings.who, settings.propagate)
    assert load(who="tenant").who == ("tenant",)
    monkeypatch.setenv("OTEL_LOGGING_PROPAGATE", "a b")
    with pytest.raises(ConfigurationError, match="OTEL_LOGGING_PROPAGATE='a b': names without"):
        load()
    monkeypatch.delenv("OTEL_LOGGING_PROPAGATE")
    assert load(spool_dir=Path("given")).spool_dir == Path("given").absolute()


def test_relative_paths_are_those_of_set_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A program that changes its directory goes on with the same; also where none is given."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))  # which some versions take instead
    monkeypatch.setenv("XDG_STATE_HOME", "state")
    monkeypatch.setenv("OTEL_LOGGING_SPOOL_DIR", "../spool")
    found = [load().spool_dir, load(spool_dir="a/b").spool_dir]
    if sys.platform == "linux":
        found.append(directories.default_base())
    monkeypatch.setattr(tempfile, "tempdir", "tmp")
    found.append(directories.fallback_base())
    monkeypatch.chdir("elsewhere")
    assert all(path and path.is_absolute() and tmp_path in path.parents for path in found)


def test_a_relative_path_where_the_working_directory_is_gone(tmp_path: Path) -> None:
    """It cannot be made absolute: an error like any other."""
    program = """
import os, sys
from otel_logging import setup_observability
os.rmdir(os.getcwd())
setup_observability("x", spool_dir=sys.argv[1])
"""
    gone = tmp_path / "gone"
    gone.mkdir()
    done = python("-c", program, "spool", cwd=gone, env=child_environment())
    assert "ConfigurationError: spool_dir='spool': a directory" in done.stderr


def test_where_the_read_side_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the variable says, else in the user's own place and its fallback."""
    assert len(spool_base()) == 2
    monkeypatch.setenv("OTEL_LOGGING_SPOOL_DIR", "here")
    assert spool_base() == [Path("here").absolute()]


# ---------------------------------------------------------------- the table in the documentation


def variables_there_are() -> set[str]:
    """Return every variable that ``_names`` or ``settings`` names."""
    package = ROOT / "otel_logging"
    found = {
        node.value
        for path in (package / "_names.py", *(package / "settings").glob("*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Constant) and re.fullmatch(r"[A-Z][A-Z0-9_]+", str(node.value))
    }
    prefixes = {name for name in found if name.endswith("_")}
    assert prefixes == {_names.OTLP_PREFIX, *_names.OTLP_PREFIXES.values()}
    options = {"ENDPOINT"}
    for each in dataclasses.fields(Exporter):
        options.update(each.metadata.get("variables", ()))
    exporter = {prefix + option for prefix in prefixes for option in options}
    return (found - prefixes - options) | exporter


def test_the_table_names_exactly_the_variables_there_are() -> None:
    """docs/configuration.md: one row each, none left out, none made up."""
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    honoured = text.split("## Not read")[0]
    rows = re.findall(r"^\| *`([A-Z][A-Z0-9_]+)`", honoured, re.MULTILINE)
    assert len(rows) == len(set(rows))
    assert set(rows) == variables_there_are()


def test_every_argument_of_set_up_is_a_setting() -> None:
    """A field of that name, or one that says so; the endpoint is made of several variables."""
    described = {
        each.metadata.get("argument") or each.name for each in dataclasses.fields(Settings)
    }
    arguments = {*inspect.signature(setup_observability).parameters, "log_levels"}
    assert arguments - {"endpoint"} <= described


def test_the_table_names_exactly_the_arguments_there_are() -> None:
    """Of both doors."""
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| *`([a-z_]+)`", text, re.MULTILINE))
    doors = (setup_observability, configure_logging)
    assert rows == {name for door in doors for name in inspect.signature(door).parameters}


@pytest.mark.parametrize(
    ("given", "on"), [("auto", tuple(_names.INTEGRATIONS)), ("none", ()), ("flask", ("flask",))]
)
def test_integrations_are_all_none_or_by_name(given: str, on: tuple[str, ...]) -> None:
    assert load(instrument=given).instrument == on
    assert load(instrument=()).instrument == ()
