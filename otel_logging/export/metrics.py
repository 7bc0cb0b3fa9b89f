"""Metrics for a meter provider that the application has set: what was delivered and what was lost,
under the names of SDKs, and what was redacted or shortened, under our own.

In: counts. Out: observations, when the provider's reader asks. Invariant: nothing is counted a
second time for this. Deliberately absent: a meter provider.
"""

from collections.abc import Iterator
from functools import cache, partial
from typing import Final

from opentelemetry import metrics

from otel_logging import _diagnostics, _names, _redact
from otel_logging.export import sender
from otel_logging.spool import destinations, queue
from otel_logging.spool.directories import NOUNS

#: By the kind of a report: the component that lost it, and why (conventions: otel.sdk.*).
_LOSSES: Final = {
    queue.DROPPED_FULL: ("processor", "queue_full"),
    destinations.DROPPED_BOUND: ("processor", "queue_full"),
    queue.LOST_LATE: ("processor", "already_shutdown"),
    queue.LOST_EXIT: ("processor", "already_shutdown"),
    queue.LOST_AFTER: ("processor", "already_shutdown"),
    queue.DAMAGED: ("exporter", "damaged"),
    sender.REFUSED: ("exporter", "rejected"),
}
_DONE: Final = {"exporter": "exported", "processor": "processed"}


@cache
def observe() -> None:
    """Let the global meter provider, also one that is set later, ask for the counts. Once a
    process. Cost: nothing until it asks.
    """
    meter = metrics.get_meter(_names.SCOPE)
    for signal, noun in (("span", NOUNS["traces"]), ("log", NOUNS["logs"])):
        for component, done in _DONE.items():
            ask = partial(_counted, component, noun)
            name = f"{_names.SDK_METRIC}{component}.{signal}.{done}"
            unit = f"{{{noun[:-1].replace(' ', '_')}}}"
            meter.create_observable_counter(name, [ask], unit)
    for what in _redact.changed:  # the conventions have no name for these
        ask = partial(_changed, what)
        meter.create_observable_counter(_names.VALUE_METRIC + what, [ask], "{value}")


def _about(component: str) -> dict[str, str]:
    kind = f"otel_logging_{component}"
    return {_names.COMPONENT_TYPE: kind, _names.COMPONENT_NAME: f"{kind}/0"}


def _changed(what: str, _: object) -> Iterator[metrics.Observation]:
    yield metrics.Observation(_redact.changed[what], _about("processor"))


def _counted(component: str, noun: str, _: object) -> Iterator[metrics.Observation]:
    about = _about(component)
    if component == "exporter":
        yield metrics.Observation(sender.delivered[noun], about)
    losses: dict[str, int] = {}
    for sentence, (place, why) in _LOSSES.items():
        if place == component and (count := _diagnostics.counts[sentence.format(noun)]):
            losses[why] = losses.get(why, 0) + count
    for why, count in losses.items():
        yield metrics.Observation(count, {**about, _names.ERROR_TYPE: why})
