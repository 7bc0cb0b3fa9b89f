"""What is set up: one record, which is replaced and never changed.

In: what set-up, ``shutdown`` and ``testing.capture`` decide. Out: ``current``, which every
stage and line reads. Invariant: no other module keeps what a set-up decides, so a block that puts
the old record back has undone it. Deliberately absent: deciding any of it (``observability``).
"""

import random
import time
from collections.abc import Callable, Mapping, MutableMapping, Set
from dataclasses import dataclass, field, replace
from typing import Any, Final

from otel_logging import _redact

#: Its own generator, so that no application's ``seed()`` repeats ids; they are no secrets.
ids: Final = random.Random()  # noqa: S311


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Runtime:
    """What is set up, in four parts: spans, lines beside stdout, lines, and a test's block."""

    # ---- spans

    #: The ``Observability`` that is in use; None: there is no tracing by us.
    observability: Any = None
    #: Makes the spans of stages; None: another SDK's tracer is looked for.
    tracer: Any = None
    #: Where our provider's spans, and those of a provider that we are attached to, go.
    pipeline: Any = None
    #: Budgets by stage name, in seconds; its ``get`` knows patterns.
    budgets: Mapping[str, float] = field(default_factory=dict)
    #: Watches what is open, and says why it was late; None: nothing is watched.
    watch: Any = None
    #: Keys of the bound context that go out as baggage.
    propagate: tuple[str, ...] = ()
    #: The bound keys that say on whose behalf something runs.
    who: tuple[str, ...] = ("user_id",)
    #: Whether a trace that comes in is continued; else it is linked to.
    trust_inbound: bool = True
    #: How long a text in a field may be, where that is more than the package's own bound.
    characters: int = 0
    #: The clock of lines outside our spans, ns since the epoch.
    now_ns: Callable[[], int] = time.time_ns
    #: Where ids come from: as many random bits as it is asked for.
    random_bits: Callable[[int], int] = ids.getrandbits

    # ---- where lines go beside stdout

    #: Takes the lines that no open span of ours takes: (its span, ns since the epoch, message,
    #: fields). None: only a recording span takes any.
    line_sink: Callable[[Any, int, str, Mapping[str, Any]], None] | None = None
    #: Takes every line as a log record: with the same arguments, and the line's exception.
    record_sink: Callable[..., None] | None = None
    #: Says whether a logger provider of another SDK sends to where ``record_sink``'s records go.
    sends_records: Callable[[Any], bool] | None = None
    #: Makes the line about an exception that leaves an entry stage; what it returns writes it.
    failed: Callable[[str, BaseException], Callable[[], None] | None] | None = None
    #: Whether lines are events of their spans: always, but for OTEL_LOGS_EXPORTER=otlp alone.
    on_spans: bool = True

    # ---- lines: this outlasts ``shutdown``

    #: How lines are made (``logs.logger.Configured``); None: as structlog is configured.
    logs: Any = None
    #: LOG_LEVEL and LOG_LEVELS by ``Logger.name``; empty while other loggers are left alone.
    taken_over: Mapping[str, int] = field(default_factory=dict)
    #: The packages whose code is the application's, wherever they are installed.
    application: Set[str] = frozenset()
    #: Takes secrets out of what leaves: lines, spans, log records, reports on stderr.
    redaction: _redact.Redaction = _redact.DEFAULT

    # ---- while a test captures

    #: Gets the settings of a set-up, which starts nothing then.
    take_settings: Callable[[Any], None] | None = None
    #: Sees every line before it is written.
    listener: Callable[[MutableMapping[str, Any]], None] | None = None
    #: The level of all lines, if the test asks for one.
    listens_from: int | None = None


current = Runtime()


def swap(new: Runtime) -> Runtime:
    """Replace what is set up; return what was. The caller holds set-up's lock, or is a test."""
    global current
    old, current = current, new
    return old


def change(**changes: Any) -> None:
    """Replace what is set up by the same with *changes*. The caller is as ``swap``'s."""
    swap(replace(current, **changes))
