"""Stages: what a span of ``traced`` is, whatever it is put around."""

import asyncio
import contextvars
import dataclasses
import gc
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import Link, SpanContext, TraceFlags

from otel_logging import (
    ConfigurationError,
    _runtime,
    bind_context,
    bound_context,
    detached,
    extract,
    get_logger,
    inject,
    setup_observability,
    traced,
    tracers,
)
from tests.conftest import Service

log = get_logger("shop")


class Array:
    """As numpy's: what it is compared with has no single answer."""

    def __eq__(self, _: object) -> bool:
        raise ValueError("ambiguous")

    __hash__ = None  # type: ignore[assignment]

    def __iter__(self) -> Iterator[int]:
        return iter((1, 2))


def current_name() -> str | None:
    return getattr(trace.get_current_span(), "name", None)


# ---------------------------------------------------------------- a with block


def test_a_stage_is_a_span_with_its_fields(service: Service) -> None:
    """Fields, attributes and kind are the span's; ``with`` gives the OpenTelemetry span."""
    with traced("charge", kind="client", amount=12, attributes={"kind": "card"}) as span:
        span.set_attribute("more", True)
        assert isinstance(span, trace.Span)
        assert trace.get_current_span() is span
    sent = service.one("charge")
    assert sent.attributes == {"amount": 12, "kind": "card", "more": True}
    assert sent.kind == "client"
    assert sent.parent_span_id is None
    assert not trace.get_current_span().get_span_context().is_valid


def test_stages_nest_and_share_the_trace(service: Service) -> None:
    """An inner stage is a child of the outer one, and lies within it."""
    with traced("outer"), traced("inner"):
        pass
    outer, inner = service.one("outer"), service.one("inner")
    assert (inner.trace_id, inner.parent_span_id) == (outer.trace_id, outer.span_id)
    assert outer.start_ns <= inner.start_ns <= inner.end_ns <= outer.end_ns


def test_a_root_stage_begins_a_trace_linked_to_where_it_was_opened(service: Service) -> None:
    """``root=True`` has no parent, and a link to the current span."""
    with traced("request"), traced("job", root=True):
        pass
    with traced("alone", root=True):
        pass
    request, job = service.one("request"), service.one("job")
    assert job.parent_span_id is None
    assert job.trace_id != request.trace_id
    assert [(link.trace_id, link.span_id) for link in job.links] == [
        (request.trace_id, request.span_id)
    ]
    assert service.one("alone").links == ()


def test_links_are_taken_in_three_forms(service: Service) -> None:
    """Spans, span contexts and OpenTelemetry's links are links of the stage."""
    context = SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(1))
    with traced("a") as a:
        pass
    with traced("b", links=[a, context, Link(context, {"why": "asked"})]):
        pass
    links = service.one("b").links
    assert [int(link.span_id, 16) for link in links] == [a.get_span_context().span_id, 2, 2]
    assert links[2].attributes == {"why": "asked"}


def test_a_stage_over_its_budget_is_late(service: Service) -> None:
    """``late`` and ``late.by_s`` are attributes where the budget is exceeded, and only there."""
    with traced("slow", budget=0.001):
        time.sleep(0.01)
    with traced("quick", budget=60):
        pass
    slow, quick = service.one("slow"), service.one("quick")
    assert slow.attributes["budget_s"] == 0.001
    assert slow.attributes["late"] is True
    took = (slow.end_ns - slow.start_ns) / 1e9
    assert slow.attributes["late.by_s"] == pytest.approx(took - 0.001, abs=1e-6)
    assert quick.attributes == {"budget_s": 60.0}


def test_budgets_of_set_up_hold_for_stages_without_one(service: Service) -> None:
    """``setup_observability(budgets=)`` names stages; a stage's own budget wins."""
    service.observability.shutdown()
    service.observability = setup_observability(
        "shop",
        environment="production",
        endpoint=service.receiver.endpoint,
        spool_dir=service.spool_dir,
        budgets={"search": 30},
    )
    with traced("search"):
        pass
    with traced("search", budget=5):
        pass
    assert [s.attributes["budget_s"] for s in service.named("search")] == [30.0, 5.0]


@pytest.mark.parametrize(
    ("arguments", "options", "says"),
    [
        (("",), {}, "traced: name=''"),
        (("  ",), {}, "traced: name='  '"),
        ((3,), {}, "traced: name=3"),
        (("x",), {"budget": 0}, "traced: budget=0: a positive number of seconds"),
        (("x",), {"budget": -1}, "budget=-1"),
        (("x",), {"budget": float("nan")}, "budget=nan"),
        (("x",), {"budget": True}, "budget=True"),
        (("x",), {"budget": "soon"}, "budget='soon'"),
        (("x",), {"kind": "batch"}, "one of internal, server, client, producer, consumer"),
        (("x",), {"budget": "0.3"}, "budget='0.3'"),
        (("x",), {"kind": []}, "traced: kind=[]"),
        (("x",), {"links": [3]}, "traced: links=3"),
        (("x",), {"links": 5}, "traced: links=5"),
        (("x",), {"links": ""}, "traced: links="),
        (("x",), {"links": b""}, "traced: links="),
        (("x",), {"links": {}}, "traced: links="),
        (("x",), {"links": Array()}, "traced: links=1"),
        (("x",), {"attributes": 5}, "traced: attributes=5: a mapping"),
        (("x",), {"root": 5}, "traced: root=5: True or False"),
        (("x",), {"root": None}, "traced: root=None"),
        (("x",), {"root": "yes"}, "traced: root='yes'"),
        ((len,), {"root": 1}, "traced: root=1"),
    ],
)
def test_bad_options_raise_when_the_stage_is_made(arguments, options, says) -> None:
    """A stage that cannot be is a ConfigurationError at decoration, and never later."""
    with pytest.raises(ConfigurationError) as caught:
        traced(*arguments, **options)
    assert says in str(caught.value)


def test_a_stage_object_can_be_entered_again_and_nested(service: Service) -> None:
    """One object is one stage each time it is entered."""
    stage = traced("again")
    with stage:
        pass
    with stage, stage:
        pass
    first, inner, outer = service.named("again")
    assert first.trace_id != outer.trace_id
    assert inner.parent_span_id == outer.span_id


def test_one_stage_object_serves_many_tasks_at_once(service: Service) -> None:
    """Each task leaves the stage that it entered, in whatever order they end."""
    stage = traced("shared")

    async def task(number: int) -> None:
        with stage as span:
            span.set_attribute("number", number)
            await asyncio.sleep(0.001 * (number * 7 % 5))
            assert trace.get_current_span() is span
            log.info("line", number=number)
        assert current_name() is None

    async def main() -> None:
        await asyncio.gather(*(task(number) for number in range(20)))

    asyncio.run(main())
    spans = service.named("shared")
    assert len(spans) == 20
    for span in spans:
        assert [e.attributes["number"] for e in span.events] == [span.attributes["number"]]


def test_any_field_name_can_be_given(service: Service) -> None:
    """``self`` and ``name`` are names like others."""
    with traced("x", self=1, name="n", function="f"):
        pass
    assert service.one("x").attributes == {"self": 1, "name": "n", "function": "f"}


def test_a_stage_without_a_name_is_called_stage(service: Service) -> None:
    """``with traced():`` needs no name, like ``@traced()``."""
    with traced():
        pass
    assert service.one("stage")


# ---------------------------------------------------------------- exceptions


def test_an_exception_is_recorded_once_where_it_was_raised(service: Service) -> None:
    """The innermost span has the event; those it passes have status ERROR and no second one."""
    with pytest.raises(ValueError, match="no such order"):  # noqa: PT012, SIM117
        with traced("outer"):
            with traced("inner"):
                raise ValueError("no such order")
    inner, outer = service.one("inner"), service.one("outer")
    (event,) = inner.events
    assert event.name == "exception"
    assert event.attributes["exception.type"] == "ValueError"
    assert event.attributes["exception.message"] == "no such order"
    assert "raise ValueError" in event.attributes["exception.stacktrace"]
    assert outer.events == ()
    assert (inner.status, outer.status) == ("error", "error")
    assert outer.message == "ValueError: no such order"


def test_an_exception_logged_and_raised_again_is_recorded_once(service: Service) -> None:
    """``log.exception`` and then ``raise`` is one event: the line."""
    with pytest.raises(KeyError), traced("lookup"):  # noqa: PT012
        try:
            raise KeyError("order")
        except KeyError:
            log.exception("not found")
            raise
    (event,) = service.one("lookup").events
    assert event.name == "not found"
    assert "KeyError: 'order'" in event.attributes["exception"]


def test_one_exception_in_two_traces_is_recorded_in_both(service: Service) -> None:
    """What is once is once a trace: a shared exception object is no secret to the second."""
    error = RuntimeError("down")
    for name in ("first", "second"):
        with pytest.raises(RuntimeError), traced(name):
            raise error
    assert [len(service.one(name).events) for name in ("first", "second")] == [1, 1]


def test_an_exception_that_refuses_attributes_is_recorded_once(service: Service) -> None:
    """A frozen dataclass, for one."""

    @dataclasses.dataclass(frozen=True)
    class FrozenError(Exception):
        code: int

    with pytest.raises(FrozenError), traced("outer"), traced("middle"), traced("inner"):
        raise FrozenError(3)
    assert [len(service.one(n).events) for n in ("inner", "middle", "outer")] == [1, 0, 0]


def test_a_cancelled_stage_is_no_error(service: Service) -> None:
    """Cancellation is the attribute ``cancelled``."""

    async def main() -> None:
        @traced("wait")
        async def wait() -> None:
            await asyncio.Event().wait()

        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())
    span = service.one("wait")
    assert span.attributes == {"cancelled": True}
    assert (span.status, span.events) == ("unset", ())


def test_leaving_the_process_is_no_error(service: Service) -> None:
    """SystemExit passes through, and the stage ends as it was."""
    with pytest.raises(SystemExit), traced("main"):
        raise SystemExit(3)
    assert service.one("main").status == "unset"


def test_an_exception_that_cannot_be_printed_or_marked_ends_the_stage(service: Service) -> None:
    """Whatever an exception's own code does, the stage ends and the exception goes on."""

    class AwkwardError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

        def __setattr__(self, name: str, value: object) -> None:
            raise AttributeError(name)

    with pytest.raises(AwkwardError), traced("awkward"):
        raise AwkwardError
    span = service.one("awkward")
    assert span.status == "error"
    assert span.events[0].attributes["exception.type"].endswith("AwkwardError")


# ---------------------------------------------------------------- decorators


def test_a_bare_decorator_names_the_stage_after_the_function(service: Service) -> None:
    """``@traced`` and ``@traced()`` keep the function's metadata and use its name."""

    class Orders:
        @traced
        def load(self, n: int) -> int:
            """Load."""
            return n + 1

        @traced()
        @staticmethod
        def price() -> int:
            return 5

        @traced
        @classmethod
        def count(cls) -> str:
            return cls.__name__

    assert Orders.load.__doc__ == "Load."
    assert (Orders().load(1), Orders.price(), Orders().count()) == (2, 5, "Orders")
    assert [s.name for s in service.spans()] == ["Orders.load", "Orders.price", "Orders.count"]


def test_a_callable_object_is_named_after_its_class(service: Service) -> None:
    """Anything callable can be decorated."""

    class Handler:
        async def __call__(self) -> str | None:
            return current_name()

    assert asyncio.run(traced(Handler())()) == "Handler"  # type: ignore[arg-type]
    assert service.one("Handler")


def test_each_call_of_a_decorated_coroutine_is_a_stage_of_its_own(service: Service) -> None:
    """Calls that run at the same time do not mix."""

    @traced("handle")
    async def handle(user: str) -> str:
        bind_context(user_id=user)
        await asyncio.sleep(0)
        return trace.get_current_span().attributes["user_id"]  # type: ignore[attr-defined]

    async def main() -> list[str]:
        return await asyncio.gather(*(handle(f"u{n}") for n in range(50)))

    assert asyncio.run(main()) == [f"u{n}" for n in range(50)]
    spans = service.named("handle")
    assert sorted(s.attributes["user_id"] for s in spans) == sorted(f"u{n}" for n in range(50))
    assert len({s.trace_id for s in spans}) == 50


def test_a_generator_is_current_only_while_its_own_code_runs(service: Service) -> None:
    """Its span lasts from the first step to the close; the consumer never sees it."""

    @traced("rows")
    def rows() -> Iterator[str | None]:
        yield current_name()
        with traced("inside"):
            yield current_name()
            yield current_name()
        yield current_name()

    with traced("consumer"):
        seen = [(name, current_name()) for name in rows()]
    assert seen == [
        ("rows", "consumer"),
        ("inside", "consumer"),
        ("inside", "consumer"),
        ("rows", "consumer"),
    ]
    assert service.one("inside").parent_span_id == service.one("rows").span_id
    assert service.one("rows").parent_span_id == service.one("consumer").span_id


def test_a_generator_that_is_never_begun_is_no_stage(service: Service) -> None:
    """Making it costs nothing; dropping it half-way ends the stage."""

    @traced("rows")
    def rows() -> Iterator[int]:
        yield 1
        yield 2

    rows()
    gc.collect()
    assert service.named("rows") == []
    half = rows()
    next(half)
    del half
    gc.collect()
    assert service.one("rows").status == "unset"


def test_an_async_generator_is_current_only_while_its_own_code_runs(service: Service) -> None:
    """The same holds across awaits, and for a consumer that stops half-way."""

    @traced("stream")
    async def stream() -> AsyncIterator[str | None]:
        try:
            for _ in range(9):
                await asyncio.sleep(0)
                yield current_name()
        finally:
            await asyncio.sleep(0)
            log.info("closed", where=current_name())

    async def main() -> None:
        with traced("consumer"):
            steps = stream()
            async for name in steps:
                assert (name, current_name()) == ("stream", "consumer")
                break
            await steps.aclose()  # type: ignore[attr-defined]
            assert current_name() == "consumer"

    asyncio.run(main())
    (event,) = service.one("stream").events
    assert event.attributes["where"] == "stream"


def test_a_stage_in_a_generators_body_never_becomes_current_again(service: Service) -> None:
    """Python leaks it between yields; once closed it is no later stage's parent."""

    def rows() -> Iterator[int]:
        with traced("leaky"):
            yield 1
            yield 2

    steps = rows()
    next(steps)
    assert current_name() == "leaky"
    with traced("while it is open"):
        steps.close()
    assert current_name() is None
    with traced("afterwards"):
        pass
    assert service.one("afterwards").parent_span_id is None
    assert service.one("while it is open").parent_span_id == service.one("leaky").span_id


def test_a_stage_ended_in_another_context_leaves_that_alone(service: Service) -> None:
    """Closing from another task ends the span and changes nobody's current one."""

    async def main() -> None:
        async def steps() -> AsyncIterator[int]:
            with traced("leaky"):
                yield 1

        generator = steps()
        await anext(generator)

        async def close() -> None:
            with traced("closer"):
                await generator.aclose()  # type: ignore[attr-defined]
                assert current_name() == "closer"

        await asyncio.create_task(close(), context=contextvars.Context())

    asyncio.run(main())
    assert service.one("leaky").status == "unset"
    assert service.one("closer").parent_span_id is None


# ---------------------------------------------------------------- what is bound


def test_what_is_bound_inside_a_stage_is_on_it_and_on_the_entry_span(service: Service) -> None:
    """People bind inside the stage; Jaeger finds the request all the same."""
    with traced("request"):
        with traced("authenticate"):
            bind_context(user_id="u1", trace_id="req-7", level="gold")
        with traced("answer"):
            log.info("done")
    expected = {"user_id": "u1", "request_id": "req-7", "level_": "gold"}
    assert service.one("request").attributes == expected
    assert service.one("authenticate").attributes == expected
    answer = service.one("answer")
    assert answer.attributes == expected
    assert answer.events[0].attributes == {
        "user_id": "u1",
        "request_id": "req-7",
        "level_": "gold",
        "level": "info",
        "logger": "shop",
    }


def test_what_is_bound_ends_with_the_entry_stage(service: Service) -> None:
    """A worker's next message never has the last one's user; what was bound around it stays."""
    with bound_context(worker=1):
        with traced("message"), traced("inner"):
            bind_context(user_id="u1")
        with traced("next"):
            pass
    with traced("request"):
        with traced("job", root=True):
            bind_context(user_id="u2")
        with traced("rest"):
            pass
    assert service.one("inner").attributes == {"worker": 1, "user_id": "u1"}
    assert service.one("message").attributes == {"worker": 1, "user_id": "u1"}
    assert service.one("next").attributes == {"worker": 1}
    assert service.one("job").attributes == {"user_id": "u2"}
    assert service.one("rest").attributes == {}


def test_a_stage_of_a_trace_from_outside_is_an_entry_stage(service: Service) -> None:
    """After ``extract`` the first stage here is the entry, and its bindings end with it."""
    with extract({"traceparent": f"00-{7:032x}-{8:016x}-01"}):
        with traced("handle"):
            bind_context(user_id="u1")
        with traced("again"):
            pass
    handle = service.one("handle")
    assert (int(handle.trace_id, 16), int(handle.parent_span_id or "", 16)) == (7, 8)
    assert handle.attributes == {"user_id": "u1"}
    assert service.one("again").attributes == {}


def test_a_detached_stage_has_no_parent_and_no_bindings(service: Service) -> None:
    """``detached`` has no parent and nothing bound; afterwards all is as before."""
    with traced("request"):
        bind_context(user_id="u1")
        with detached(), traced("sweep"):
            pass
        with traced("rest"):
            pass
    sweep = service.one("sweep")
    assert (sweep.parent_span_id, sweep.attributes) == (None, {})
    assert service.one("rest").attributes == {"user_id": "u1"}


# ---------------------------------------------------------------- before and after


def test_before_set_up_and_after_shutdown_a_stage_is_nothing(service: Service) -> None:
    """It works, gives the invalid span, and leaves the context as it is."""
    service.observability.shutdown()
    before = otel_context.get_current()
    with traced("x", budget=1) as span:
        assert not span.is_recording()
        span.set_attribute("a", 1)
        bind_context(a=1)
    assert otel_context.get_current() is before
    with pytest.raises(ValueError, match="x"), traced("y"):
        raise ValueError("x")
    assert inject() == {}

    @traced
    def add(a: int, b: int) -> int:
        return a + b

    assert add(1, 2) == 3
    assert service.receiver.spans == []


def test_a_span_that_cannot_end_is_a_counted_loss(service: Service, monkeypatch: Any) -> None:
    """Somebody else's span may raise; leaving the stage does not."""

    class Broken(trace.NonRecordingSpan):
        def end(self, end_time: int | None = None) -> None:
            raise RuntimeError("end")

    class Tracer(trace.NoOpTracer):
        def start_span(self, *args: Any, **kwargs: Any) -> trace.Span:
            return Broken(SpanContext(1, 2, is_remote=False))

    monkeypatch.setattr(
        _runtime,
        "current",
        dataclasses.replace(_runtime.current, tracer=tracers.ForeignTracer(Tracer())),
    )
    with traced("x"):
        pass
    assert "stages lost: a span could not be ended" in repr(service.observability)
    assert not trace.get_current_span().get_span_context().is_valid


def test_a_tracer_that_records_nothing_makes_no_span(service: Service, monkeypatch: Any) -> None:
    nothing = tracers.ForeignTracer(trace.NoOpTracer())
    record = dataclasses.replace(_runtime.current, tracer=nothing)
    monkeypatch.setattr(_runtime, "current", record)
    with traced("x") as span:
        assert span is trace.INVALID_SPAN
        assert trace.get_current_span() is trace.INVALID_SPAN
    with traced("request", root=True) as span:
        bind_context(user_id="ann")
        assert not span.is_recording()
    assert not trace.get_current_span().get_span_context().is_valid
    assert service.receiver.spans == []


def test_a_sampler_that_fails_costs_the_stage_and_nothing_else(service: Service) -> None:
    """Foreign code never raises into the application; the loss is counted."""
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler

    class Broken(Sampler):
        def should_sample(self, *args, **kwargs):
            raise RuntimeError("sampler")

        def get_description(self) -> str:
            return "broken"

    provider = trace.get_tracer_provider()
    provider.sampler = Broken()  # type: ignore[attr-defined]
    try:
        with traced("x") as span:
            assert not span.is_recording()
    finally:
        provider.sampler = ALWAYS_ON  # type: ignore[attr-defined]
    assert "1 stages lost" not in repr(service.observability)
    assert "stages lost: a span could not be started" in repr(service.observability)
