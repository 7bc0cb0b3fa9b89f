"""Secrets in the place of a name: in tables, members, lists, statements; who it is, in a line."""

import json
import logging
import re
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from otel_logging import Redaction, bound_context, configure_logging, traced
from otel_logging._redact import DEFAULT
from otel_logging._values import bounded
from otel_logging.processors import redact_secrets
from tests import planted_by_place
from tests.conftest import Service
from tests.linear import is_done_within

log = structlog.get_logger("shop")
S, W = "Zk9vQ2xTn8LmW4", "swordfish"


@pytest.mark.parametrize("text", planted_by_place.LOOKS)
def test_what_is_known_by_its_looks_is_gone_from_each_text(text: str) -> None:
    """Cards in each grouping, codes, tokens behind escaped bytes, JSON in base64."""
    found = DEFAULT.text(text)
    assert "[redacted:" in found
    assert not re.search("[0-9]{4}|eyJ|ewog|ghp_|sk_live", found)


@pytest.mark.parametrize(
    "value",
    [
        {"value": S, "name": "password"},
        {"label": "Password", "value": W},
        {"title": "API key", "value": S},
        {"type": "password", "name": "p1", "value": W},
        {"op": "replace", "path": "/users/1/password", "value": W},
        {"variable": "DB_PASSWORD", "value": W},
        {"option": "--password", "value": W},
        {"flag": "token", "arg": S},
        {"columns": ["id", "password"], "values": [1, W]},
        {"columns": ["id", "token"], "rows": [[1, S], (2, S)]},
        {"sql": "UPDATE u SET password=?", "params": [S]},
        {"statement": "INSERT INTO u (id, password) VALUES (?, ?)", "parameters": (1, W)},
        {"query": "SELECT * FROM s WHERE token = $1", "args": [S]},
        ["Host", "x", "X-Api-Key", S],
        ("setenv", "X_TOKEN", S),
        ["pbcopy", "-q", "password", "Zk9vQ2"],
        f'{{"value":"{W}","name":"password"}}',
        f'{{"type":"password","value":"{W}"}}',
        f'["Host","x","Authorization","{S}"]',
        f"- value: {W}\n  name: DB_PASSWORD",
        f"<input value='{W}' name='password'>",
    ],
)
def test_a_name_and_its_value_may_be_in_two_places(value: Any) -> None:
    """The name is left, and what stands beside it."""
    found = DEFAULT.field("x", bounded(value))
    assert S not in repr(found)
    assert W not in repr(found)
    assert "Zk9vQ2" not in repr(found)
    assert "[redacted:" in repr(found)
    assert DEFAULT.field("x", found) == found


@pytest.mark.parametrize(
    "value",
    [
        {"label": "Session", "value": "Morning"},
        {"label": "Token ring", "value": "ring"},
        {"field": "password", "error": "too short"},
        {"event": "password_changed", "value": None},
        {"fields": ["user", "password"], "labels": ["User", "Password"]},
        {"fields": ["user", "password"], "types": ["string", "string"]},
        {"columns": ["id", "password"], "rows": [[1]]},
        {"columns": ["id", "name"], "rows": [[1, "bob"]]},
        {"sql": "SELECT 1 WHERE id=?", "params": [42]},
        {"sql": "SELECT 1", "params": [42]},
        {"choices": [["token", "Token"], ["password", "Password"]]},
        {"twice": ["12", "12"], "tuple": ("7f", "7F"), "long": ["1" * 5000] * 2},
        {"image": "auth:v2"},
        ["token", "secret", "password"],
        ["Host", "x1", "Accept", "y1"],
        "password != password2",
        "user, password\nbob, then return",
        "user,token\nbob,valid",
        "user,password\nbob,",
        "password\n\n| a |",
        "password rotation: Zk9vQ2xTn8LmW4",
        "4111 1111 1111 1112",
        "4111 1111",
        "5242 8810 4857 1224",
        "eyJpZCI6IDQyLCAibmFtZSI6ICJib2IifQ==",
    ],
)
def test_what_stands_beside_another_name_stays(value: Any) -> None:
    assert DEFAULT.field("x", bounded(value)) == bounded(value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("training_session", each) for each in ("abc", "Leg day", "2026-11-27", "take 2")),
        *(("secret_ingredient", each) for each in ("abc", "dark chocolate", "cardamom")),
        *(("cookie_jar", each) for each in ("full", "PINK")),
        *(("session_notes", each) for each in ("went well, so far", "Ünder")),
    ],
)
def test_words_under_the_name_of_another_thing_stay(name: str, value: str) -> None:
    """As a field, in a text, in JSON; what is no word is a secret there too."""
    assert DEFAULT.field(name, value) == value
    for text in (f'{{"{name}": "{value}"}}', f"a {name}='{value}'"):
        assert DEFAULT.text(text) == text
    for secret in (S, "a8f3c21b9d", "abcdefghijklmnopqrstuvwxyz"):
        assert DEFAULT.field(name, secret) != secret
        assert secret not in DEFAULT.text(f"{name}={secret}")
    for strict in ("secret_value", "secret_for_app", "db_secret", "client_secret", "session_id"):
        assert DEFAULT.field(strict, W) != W


@pytest.mark.parametrize("body", ['{"password": "§"}', '{"a": [["token", "§"]]}', '{"pin": "§"}'])
def test_json_in_a_text_is_looked_at_as_data(body: str) -> None:
    """Columns, names with escaped letters, JSON in JSON of any depth."""
    body = body.replace("§", S)
    for text in (
        f'{{"columns": ["id", "token"], "rows": [[1, "{S}"], [2, "{S}"]]}}',
        f'{{"contrase\\u00f1a": "{W}", "a": 1}}',
        f'[{{"password": "x"}}, {body}]',
        json.dumps({"msg": f"неверный пароль '{S}'"}),
    ):
        found = DEFAULT.text(text)
        assert S not in found
        assert W not in found
        assert json.loads(found) == DEFAULT.value(json.loads(text))
        assert DEFAULT.text(found) == found
    for _ in range(9):
        body = json.dumps({"body": body, "n": [1, "a"]})
    assert S not in DEFAULT.text(body)
    broken = '{"columns": ["token"], "rows": [["x"]}'
    assert DEFAULT.text(broken) == broken
    deep = f'[{"[" * 5000}"token"{"]" * 5000}]'
    assert DEFAULT.text(deep) == deep


def test_a_wallet_s_words_are_one_secret() -> None:
    """There are twelve of them and more; two are a sentence."""
    words = "legal winner thank year wave sausage worth useful legal winner thank yellow"
    assert DEFAULT.text(f"mnemonic: {words}, ok") == "mnemonic: [redacted:secret], ok"


@pytest.mark.parametrize("between", [",", ";", "\t", "|", "  ", "\\t"])
def test_a_column_of_a_table_loses_its_values(between: str) -> None:
    """Below its name, quoted or not; others stay; another table begins with its own head."""
    rows = [("id", "password", "note"), ("1", S, "a"), ("2", f'"{W}"', "b")]
    text = "\n".join(between.join(row) for row in rows) + "\n\nall done"
    found = DEFAULT.text(text)
    assert found == text.replace(S, "[redacted:password]").replace(W, "[redacted:password]")
    more = f"{text}\n{between.join(('id', 'name', 'note'))}\n{between.join(('1', S, 'a'))}"
    assert DEFAULT.text(more).endswith(between.join(("1", S, "a")))
    quoted = f'name,token\n"Doe, J",{S}'
    assert DEFAULT.text(quoted) == 'name,token\n"Doe, J",[redacted:token]'


@pytest.fixture
def usual_afterwards() -> Iterator[None]:
    yield
    configure_logging(environment="production", redact=True)
    sys.stdout.flush()


@pytest.mark.usefixtures("usual_afterwards")
@pytest.mark.parametrize("straight", [True, False])
def test_who_it_is_is_hashed_in_the_message_too(
    straight: bool,
    service: Service,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Bound or given, in a span or outside, where it stands for itself; a short one is in many."""
    redaction = Redaction(personal=True, salt="s", who=["user_id"])
    mark = redaction.pseudonym("u-4711")
    monkeypatch.setattr(sys, "stdout", sys.__stdout__)  # the usual line's way
    monkeypatch.setattr(logging.root, "handlers", [])
    configure_logging(environment="production", redact=redaction)
    with bound_context(user_id="u-4711"):
        if straight:
            with traced("request"):
                log.info("user u-4711 came", n=1)
                log.info("nobody came", n=1)
        log.info("user u-4711 came, u-47112 not")
    log.info("user u-4711 came", user_id="u-4711")
    logging.getLogger("shop").warning("user %(user_id)s came", {"user_id": "u-4711"})
    log.info("user 42 came", user_id="42")
    out = capfd.readouterr().out
    events = [json.loads(line)["event"] for line in out.splitlines()]
    assert [each for each in events if each.endswith("came")][-1] == "user 42 came"
    assert events.count(f"user {mark} came") == 2 + straight
    assert f"user {mark} came, u-47112 not" in events
    assert '"u-4711"' not in out
    event = {"event": "user u-4711 came", "user_id": "u-4711"}
    assert redact_secrets(None, "info", event)["event"] == f"user {mark} came"


_HOSTILE = [
    *("password,a\n", "password,", '"a', "|password|a|\n", "password\\ta\\n", "password  a\n"),
    *("password=\n", "password:\n\n", "password=\na1b2c3\n", "password - ", "password for a b c "),
    *(
        "password a: ",
        "token 'a' but got ",
        "tokens=a1b2c3, ",
        "password != 'a' != ",
        "\u5bc6\u7801",
    ),
    *("a: password value: ", "value=a b=c d=", "op=/a/password value=", "'password', 'a1', "),
    *(
        "4111 ",
        "411111111111 ",
        "4111\\u00a0",
        "\\xffeyJ",
        "eyJwYXNzd29yZCI6",
        "mnemonic: abc abc ",
    ),
    *("password='a''b", "password: &a ", "Token(value='", "<a Name='password'><b:c d='e'>"),
    *("::set-output name=token", "secret_a: b ", "secrets set a:b "),
]


@pytest.mark.parametrize("piece", _HOSTILE)
def test_each_new_rule_takes_linear_time(piece: str) -> None:
    """100 KB of its own beginning: at most 300 times as long as a loop; here with room."""
    text = (piece * (100_000 // len(piece) + 1))[:100_000]
    began = time.thread_time()
    assert sum(each == "\0" for each in text) == 0
    most_s = 1000 * max(time.thread_time() - began, 0.001)
    assert is_done_within(most_s, DEFAULT.text, text)
