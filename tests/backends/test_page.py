"""The page of ``--html`` in a real browser: what somebody sees, reaches and hears."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from otel_logging.cli import main
from tests.backends.browser import Browser, opened
from tests.backends.stack import MissingError
from tests.commands import Runner
from tests.stored import Planted, line, store

SCRIPT = "<script>document.title='run'</script><img src=x onerror=document.title='run'>"
HOSTILE = f"{SCRIPT}\"'&\x1b[31m\x00\u202e\u2066end"
HEBREW = "\u05d3\u05d5\u05d3 1"
LONG = "a" * 300
TRACEBACK = (
    f'Traceback (most recent call last):\n  File "/srv/cart.py", line 7, in {SCRIPT}\n    x\n'
)
#: Yields, of each piece of text, how much it stands out from the page (WCAG 2: 4.5 is enough).
CONTRASTS = """
(() => {
  const light = (color) => {
    const parts = color.match(/[\\d.]+/g).slice(0, 3).map((part) => {
      const share = part / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
  };
  const back = light(getComputedStyle(document.body).backgroundColor);
  return [...document.querySelectorAll("body *")]
    .filter((one) => [...one.childNodes].some((each) => each.nodeType == 3 && each.data.trim()))
    .map((one) => light(getComputedStyle(one).color))
    .map((text) => (Math.max(text, back) + 0.05) / (Math.min(text, back) + 0.05));
})()
"""
SHOWN = """
(() => {
  const box = document.querySelector(location.hash + " h2").getBoundingClientRect();
  return box.top >= 0 && box.bottom <= innerHeight;
})()
"""


@pytest.fixture(scope="module")
def browser(asked: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with ExitStack() as stack:
        try:
            running = stack.enter_context(opened(tmp_path_factory.mktemp("browser") / "user"))
        except MissingError as missing:
            pytest.skip(str(missing))
        yield running


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pages of ``late`` and ``failed``: of many rows, deep and wide ones, and names that attack."""
    place = tmp_path_factory.mktemp("pages")
    user = {"user_id": HOSTILE, "budget_s": 0.1, LONG: LONG, "url.path": SCRIPT}
    failure = [line(5, SCRIPT, "error", exception=TRACEBACK)]
    spans = [
        Planted(1, 0, HOSTILE, 0, 900, user, failure, status=2),
        *(Planted(n, n - 1, f"step {n}", n, 900 - n, {"n": LONG}) for n in range(2, 60)),
        Planted(99, 1, LONG, 890, 899, {}, [line(891, LONG, "<b>")]),
        *(
            Planted(1, 0, f"message {n}", n, n + 300, {"user_id": HEBREW, "budget_s": 0.1},
                    trace=f"{n:032x}", status=n % 2 * 2, message="gone")
            for n in range(1, 12)
        ),
    ]  # fmt: skip
    for command in ("late", "failed"):
        file = place / f"{command}.html"
        options = ["--source", "local", "--spool-dir", str(place / "spool"), "--html", str(file)]
        store(place / "spool", *(spans if command == "late" else []))
        assert Runner().invoke(main, [command, *options]).exit_code == 0
    return place


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 820, 1280])
@pytest.mark.parametrize("command", ["late", "failed"])
def test_all_of_it_is_seen(
    browser: Browser, pages: Path, command: str, width: int, scheme: str
) -> None:
    """In the reader's colours, within the window, and nothing is asked for elsewhere."""
    file = pages / f"{command}.html"
    browser.asked.clear()
    browser.open(file, width=width, scheme=scheme)
    assert browser.asked == [file.as_uri()]
    assert browser.value("document.documentElement.scrollWidth <= innerWidth")
    inside = "[...document.querySelectorAll('main *')].every(one => "
    assert browser.value(inside + "one.getBoundingClientRect().right <= innerWidth)")
    back = browser.value("getComputedStyle(document.body).backgroundColor")
    assert back == {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 22, 22)"}[scheme]
    bar = "getComputedStyle(document.querySelector('.bar span'))"
    assert browser.value(f"{bar}.printColorAdjust") == "exact"  # else paper has no bars
    contrasts = browser.value(CONTRASTS)
    assert len(contrasts) > 50
    assert min(contrasts) >= 4.5


def test_what_attacks_is_text(browser: Browser, pages: Path) -> None:
    """Markup, control characters, and marks that turn the text around them."""
    browser.open(pages / "late.html", width=1280)
    assert browser.value("document.title").startswith("late · ")
    assert browser.value("document.querySelectorAll('script, img, b').length") == 0
    text = browser.value("document.body.innerText")
    assert f"{SCRIPT}\"'&\\x1b[31m\\x00\\u202e\\u2066end" in text
    assert not {*"\x1b\x00\u202e\u2066"} & {*text}
    # what is beside a Hebrew name stays on its right: "1 dvd · 300 ms", not "1 · 300 dvd ms"
    beside = """
(() => {
  const heading = [...document.querySelectorAll("h2")].find((one) => /\\u05d3/.test(one.innerText));
  const range = document.createRange();
  range.selectNode(heading.lastChild);
  const [name, rest] = [heading.children[1], range].map((one) => one.getBoundingClientRect());
  return name.right <= rest.left + 1;
})()
"""
    assert browser.value(beside)


@pytest.mark.parametrize("width", [400, 1280])
def test_the_keyboard_opens_each_row(browser: Browser, pages: Path, width: int) -> None:
    """From row to row, from a row to its picture, and back to all rows."""
    browser.open(pages / "late.html", width=width)
    focused = "document.activeElement.getAttribute('href')"
    links = browser.value("[...document.querySelectorAll('.rows a')].map(a => a.hash)")
    assert len(links) == 12
    for link in links:
        browser.press("Tab")
        assert browser.value(focused) == link
        assert browser.value("getComputedStyle(document.activeElement).outlineWidth") == "3px"
    browser.press("Enter")
    assert browser.value("location.hash") == links[-1]
    assert browser.value(SHOWN)
    assert browser.value("getComputedStyle(document.querySelector(':target')).boxShadow") != "none"
    browser.press("Tab")
    assert browser.value(focused) == "#rows"
    browser.press("Enter")
    assert browser.value("scrollY") < browser.value("innerHeight")


@pytest.mark.parametrize("width", [400, 1280])
def test_a_screen_reader_has_tables_with_names(browser: Browser, pages: Path, width: int) -> None:
    """In a narrow window too, where they are no longer drawn as tables."""
    browser.open(pages / "failed.html", width=width)
    tree = browser.tree()
    roles: dict[str, list[Any]] = {}
    for role, name in tree:
        roles.setdefault(role, []).append(name)
    assert len(roles["main"]) == 1
    assert roles["heading"][0].startswith("failed · 7 of 12 traces")
    assert len(roles["table"]) == 8
    assert roles["table"][0].startswith("Times are +")
    assert roles["columnheader"][:5] == ["when", "took", "who", "stage", "why"]
    assert {"stage or line", "at", "took"} <= {*roles["columnheader"][5:]}
    assert "message 1 ERROR LATE (critical path)" in " ".join(roles["rowheader"])
    assert all(roles["table"])
    assert all(roles["link"])
    assert all(roles["region"])
    assert len(roles["row"]) > 20
