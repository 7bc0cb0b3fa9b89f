"""The URL of a span in Jaeger, and text as a terminal's hyperlink.

In: the address of Jaeger, ids. Out: a URL; text with the sequence for it.
Deliberately absent: whether Jaeger has the span, and whether a terminal takes links (``settings``).
"""


def trace_url(jaeger_url: str, trace_id: str, *span_ids: str) -> str:
    """Return the URL at which Jaeger shows those spans unfolded, with their log lines and the spans
    above them. Jaeger folds away all others. Ids are lower-case hex.
    """
    return f"{jaeger_url}/trace/{trace_id}?uiFind={'%20'.join(dict.fromkeys(span_ids))}"


def hyperlink(text: str, url: str) -> str:
    """Return *text* as a link to *url*, for terminals that take OSC 8; both printable ASCII."""
    return f"\x1b]8;;{url}\x1b\\{text}\x1b]8;;\x1b\\"
