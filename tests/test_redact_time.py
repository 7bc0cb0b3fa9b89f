"""Redaction takes linear time: also where names are in one another's values, again and again."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_logging import Redaction
from otel_logging._secret_names import FOREIGN, STEMS

_NAMES = (
    *STEMS,
    *FOREIGN,
    *("password", "client_secret", "session", "api key", "X-Api-Key", "Authorization", "Cookie"),
    *("Set-Cookie", "mot de passe", "tokens", "passwords", "user.password", "API_KEY", "key"),
)
#: What is before a name, and behind it.
_SIGNS = (
    *(
        "",
        " ",
        "=",
        "==",
        "===",
        ": ",
        ":",
        "&",
        "?",
        "(",
        ")",
        '"',
        "'",
        "`",
        ",",
        ", ",
        ";",
        "; ",
    ),
    *("\\", '\\"', "\n", "\\n", "\r\n", "%3D", "%", "{", "}", "[", "]", "<", ">", "|", "\t", "  "),
    *("+", "-", "--", "->", " => ", " != ", "\u201c", "\u3000", "\\u003d", "\\u0061", "\x1b[", "$"),
    *("${{", "</", "<![CDATA[", "]]>", "&quot;", "&lt;", "://", "@", "!", "*", "!!", "/", ".", "_"),
)
#: Of the other rules; some values.
_PIECES = (
    *("a", "1", "x1", "aB1", "set", "expired", "token.a", "self.get(", "null", "***", "a b c", "é"),
    *(
        " is ",
        " to ",
        " and ",
        "bearer ",
        "Basic ",
        "Bearer+",
        "eyJhbGciOi.",
        "sk-",
        "ghp_",
        "AKIA",
    ),
    *("-----BEGIN PRIVATE KEY-----", "https://a:", "4111 ", "DE89 ", "curl -u ", "--password "),
    *("mysql -p", "LOGIN ", "AUTH ", "IDENTIFIED BY '", "PASSWORD '", "net user a b ", "code=a&"),
    *(
        "state=a&",
        "login('a', '",
        ")values('",
        "[parameters: (",
        "insert into t(password) ",
        "$1 = ",
    ),
    *('form-data; name="password"\r\n\r\n', "name: ", "value: ", "input_value=", "|-\n  ", "- "),
    *("a@a.a", "1.1.1.1", "+49 1", "s:8:", "hooks", "[redacted:password]", "\x1b[0m", "0x", "-p "),
)
_UNITS = st.tuples(
    *[st.sampled_from(each) for each in (_SIGNS, _NAMES, _SIGNS, ("", *_PIECES))]
).map("".join)
#: A name right behind another, which is its value: what is none of the other's is looked at again.
_NEXT = st.tuples(
    *[st.sampled_from(each) for each in (("=", "==", "===", "("), _NAMES[-14:], ("", "=", ": a"))]
).map("".join)
_HOSTILE = _NEXT | st.lists(_UNITS | _NEXT, min_size=1, max_size=3).map("".join)


def seconds(unit: str, length: int) -> float:
    """Return how long one text of *unit*, again and again, takes of the processor."""
    text = (unit * (length // len(unit) + 1))[:length]
    began = time.process_time()
    Redaction(personal=True).text(text)
    return time.process_time() - began


def grows(unit: str) -> float:
    """Return how many times as long four times the text takes; at most 4 where that is little."""
    longer = seconds(unit, 16_000)
    if longer < 0.3:  # measured: 0.1 at most
        return 4.0
    longer = min(longer, seconds(unit, 16_000))
    return longer / min(seconds(unit, 4_000) for _ in range(2))


@settings(max_examples=60, deadline=None)  # of thousands that were tried once
@given(_HOSTILE)
def test_names_in_one_another_s_values_take_linear_time(unit: str) -> None:
    assert grows(unit) < 10.0


@pytest.mark.parametrize(
    "unit",
    [
        *("=token=", "=password=", "(Cookie: a", "===session", "client_secret===="),
        *(
            "Set-Cookie: ask-",
            "-LOGIN Set-Cookie: a",
            "sk-pwd=\\u003d",
            "Set-Cookie: apassword  ://",
        ),
        *("[Cookie: a\nsession: a", "pwd===="),
    ],
)
def test_what_was_quadratic_takes_linear_time(unit: str) -> None:
    """Each of these took 0.4 s and more, and four times that for twice the text."""
    seconds(unit, 100)  # each pattern is compiled when it is first used
    assert seconds(unit, 32_000) < 0.7  # measured: 0.1


def test_an_object_of_many_names_takes_linear_time() -> None:
    """Each of them may be that of each value: 1,600 members took 1.6 s."""
    fields = {f"a{n}_name": "password" for n in range(800)}
    fields |= {f"b{n}_value": f"x{n}" for n in range(800)}
    began = time.process_time()
    found = Redaction().value(fields)
    assert time.process_time() - began < 0.5  # measured: 0.02
    assert list(found.values())[800:] == ["[redacted:password]"] * 800


def test_a_mapping_of_many_names_takes_linear_time() -> None:
    """Names of secrets, and names that are secrets: 16,000 took 2 s, and 2,000 took 0.6."""

    def seconds_of(times: int) -> float:
        usual = {f"k{n}_password": f"x{n}" for n in range(4_000 * times)}
        secret = {f"password=x{n}aB": True for n in range(500 * times)}
        began = time.process_time()
        assert set(Redaction().value(usual).values()) == {"[redacted:password]"}
        assert len(Redaction().value(secret)) == 500 * times
        return time.process_time() - began

    assert seconds_of(4) < 10.0 * min(seconds_of(1) for _ in range(2))


def test_a_secret_is_taken_out_whole_however_long_it_is() -> None:
    """Also behind so many names that they are not looked at any more."""
    long = "aB1" * 20_000
    for text in ("password={}", "password: '{}'", "Cookie: a={}", "<password>{}</password>"):
        assert "aB1" not in Redaction().text(text.format(long))
    hostile = "=token=" * 9_000
    found = Redaction().text(f"{hostile} password={long}, password=x1y2z3; state: ok")
    assert "aB1" not in found
    assert "x1y2z3" not in found
    assert found.endswith("; state: ok")


def test_what_is_in_one_another_is_looked_into_so_often() -> None:
    """Colours in colours, of which a thousand raised an error."""
    text = f"password=b1c2 {chr(27) * 4_000}{'[m' * 4_000} token=b1c2"
    assert "b1c2" not in Redaction().text(text)


def test_a_long_text_that_comes_again_is_looked_at_once() -> None:
    """A hundred sockets that a server closes fail with one traceback: each took 6 ms."""
    redaction, step = (
        Redaction(),
        'File "/srv/shop.py", line 7, in pay\n  token = read(password=x1y2z3)\n',
    )
    times = []
    for _ in range(20):
        text = step * 200  # each an object of its own
        began = time.process_time()
        assert "x1y2z3" not in redaction.text(text)
        times.append(time.process_time() - began)
    assert sum(times[1:]) < times[0]  # measured: a hundredth
