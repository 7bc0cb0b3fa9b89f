"""Where a span is seen in Jaeger, and how a terminal makes a link of it.

In: the address of Jaeger, ids. Out: a URL; text with the sequence for it.
Deliberately absent: whether Jaeger has the span, and whether a terminal takes links (``settings``).
"""


def trace_url(jaeger_url: str, trace_id: str, span_id: str) -> str:
    """Return where Jaeger shows that span, opened, with its log lines. Ids are lower-case hex."""
    return f"{jaeger_url}/trace/{trace_id}?uiFind={span_id}"


def hyperlink(text: str, url: str) -> str:
    """Return *text* as a link to *url*, for terminals that take OSC 8; both printable ASCII."""
    return f"\x1b]8;;{url}\x1b\\{text}\x1b]8;;\x1b\\"
