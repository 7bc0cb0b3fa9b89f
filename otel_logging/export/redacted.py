"""Exporters and processors of others, which get spans and log records without secrets.

In: an exporter or a processor of spans or log records. Out: a wrapper that gives it redacted
copies. Invariant: what cannot be copied does not leave. Deliberately absent: what a secret is.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from otel_logging import _diagnostics
from otel_logging._values import field, plain

_T = TypeVar("_T")


def redacted(target: _T) -> _T:
    """Return *target*, an exporter or a processor of OpenTelemetry's SDK, without secrets.

    It gets copies of the spans that have ended, or of log records, redacted as set-up says, or by
    default. If an exporter stands behind a processor, wrap the exporter. A span that begins is
    shown to a processor as it is. Failure: never raises; what cannot be copied is left out and
    reported. Cost: a copy of each.
    """
    wrapped: Any = _Redacted(target)
    return wrapped  # type: ignore[no-any-return]  # it has all that *target* has


class _Redacted:
    def __init__(self, target: Any) -> None:
        self._target = target

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)

    def export(self, batch: Sequence[Any], *args: Any, **options: Any) -> Any:
        return self._target.export(_copies(batch), *args, **options)

    def _on_ending(self, span: Any) -> None:  # of SDKs from 1.31 on, where *target* has it
        getattr(self._target, "_on_ending", id)(span)

    def on_end(self, span: Any) -> None:
        for each in _copies([span]):
            self._target.on_end(each)

    def on_emit(self, record: Any) -> None:
        for each in _copies([record]):
            self._target.on_emit(each)


def _copies(batch: Sequence[Any]) -> list[Any]:
    copies = []
    for each in batch:
        try:
            copies.append(_record(each) if hasattr(each, "log_record") else _span(each))
        except Exception as error:
            _diagnostics.report("spans or log records left out: not redacted", detail=error)
    return copies


def _span(span: Any) -> Any:
    found, status = _part(span, "_name", "_attributes"), span.status
    parts = {
        "_events": [_part(event, "_name", "_attributes") for event in span.events],
        "_links": [_part(link, "_attributes") for link in span.links],
        "_status": type(status)(status.status_code, plain(status.description)),
        "_resource": _part(span.resource, "_attributes"),
        "_instrumentation_scope": _scope(span),
    }
    for name, value in parts.items():
        setattr(found, name, value)
    return found


def _record(item: Any) -> Any:
    found, record = copy.copy(item), copy.copy(item.log_record)
    record.body, record.attributes = plain(record.body), _fields(record.attributes)
    object.__setattr__(found, "log_record", record)  # some versions' are frozen
    object.__setattr__(found, "instrumentation_scope", _scope(item))
    for each in (found, record):  # the record's own in older versions
        if hasattr(each, "resource"):
            object.__setattr__(each, "resource", _part(each.resource, "_attributes"))
    return found


def _scope(item: Any) -> Any:
    scope = item.instrumentation_scope
    return _part(scope, "_attributes") if hasattr(scope, "_attributes") else scope


def _part(part: Any, *names: str) -> Any:
    found = copy.copy(part)
    for name in names:
        value = getattr(part, name)
        object.__setattr__(found, name, _fields(value) if name == "_attributes" else plain(value))
    return found


def _fields(values: Mapping[str, Any] | None) -> dict[str, Any]:
    found = {str(plain(key)): field(key, value) for key, value in (values or {}).items()}
    return {key: tuple(value) if type(value) is list else value for key, value in found.items()}
