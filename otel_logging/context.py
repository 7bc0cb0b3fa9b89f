"""On whose behalf does this run? What is current and bound in a task.

In: fields of an application. Out: a mapping that every line and every span begins with.
Invariants: task-local; a request that begins in a copy of the context of one that is over has
nothing of it. Deliberately absent: spans (``tracing``), how it goes along (``propagation``).
"""

from collections.abc import Mapping
from contextvars import ContextVar, copy_context
from types import SimpleNamespace
from typing import Any, Final, NamedTuple, cast

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import SpanKind

from otel_logging import _diagnostics, _json, _names, _runtime, binding
from otel_logging._fields import RENAMED, as_attributes
from otel_logging._wrap import F, wrap
from otel_logging.binding import NOTHING, Block, Bound, Shared, Users, has_ended

#: Attribute of a span: its request's entry span, the outermost one in this process; None if it is
#: the entry span itself.
ENTRY: Final = "otel_logging_entry"
#: Attribute of a stage's span, whichever SDK made it: the context around it.
OUTER: Final = "otel_logging_outer"


def _find_current() -> Any:
    probe = otel_context.Context({"otel_logging": "probe"})
    token = otel_context.attach(probe)
    found = [variable for variable, value in copy_context().items() if value is probe]
    otel_context.detach(token)
    # OTEL_PYTHON_CONTEXT may name one that has no context variable; its reset raises a ValueError
    other = SimpleNamespace(get=otel_context.get_current, set=otel_context.attach, reset=().index)
    return found[0] if found else other


#: OpenTelemetry's current context, by one look-up; to be set without a token.
CURRENT: Final[Any] = _find_current()
#: To get it, to set another, and to set what was before; looked up once, each takes half the time.
get_current, set_current, reset_current = CURRENT.get, CURRENT.set, CURRENT.reset
#: The key of the current span in it.
(SPAN,) = trace.set_span_in_context(trace.INVALID_SPAN, otel_context.Context())


BOUND: Final = ContextVar("otel_logging.bound", default=NOTHING)
#: What is bound in this task, with its owners; to get it, and to bind that again.
state, restore = BOUND.get, BOUND.set


def bound() -> Mapping[str, Any]:
    """Return what is bound in this task. Not to be changed."""
    return state().values


class Run:
    """One run of a job, as the owner of what is bound in it."""

    otel_logging_closed = False


#: One run of a job (``jobs``): its tag, and a ``Run`` once it, or a task that it has started, binds
#: something. A list: any other object costs a call of a tagged function a fifth more.
Job = list[Any]
_NO_JOB: Final[Job] = [None, None]
#: The background job that this runs for. Its tag is on every line and span, as a bound field is,
#: but it cannot be unbound.
job: Final = ContextVar("otel_logging.job", default=_NO_JOB)


#: To get it.
current_job = job.get


def current_job_tag() -> str | None:
    """Return the tag of the job that this runs for; None outside any. Cost: one look-up."""
    return current_job()[0]  # type: ignore[no-any-return]


def bound_attributes() -> dict[str, Any]:
    """Return what a new span begins with: what is bound, and the job tag."""
    attributes = as_attributes(bound())
    if (tag := current_job_tag()) is not None:
        attributes[_names.JOB_TAG] = tag
    return attributes


def bind_context(**fields: Any) -> None:
    """Put *fields* on every line and span from here on, on the current span and the request's.

    They end with the request's entry stage; outside any, with the ``extract`` or the tagged job. A
    task that goes on keeps them, but for stages that begin a request of their own.
    ``trace_id="req-123"`` is the line's trace id where no span is active, and ``request_id`` where
    one is. Scope: this task, and tasks it starts from here on.
    Failure: never raises. Cost: three dict copies and two span attributes a field; never blocks.
    """
    span = get_current().get(SPAN, trace.INVALID_SPAN)
    entry, before = entry_of(span), state()
    # after the end of its request a task may have stages of its own
    owner: Any = entry if _is_open(entry) else span if _is_open(span) else None
    if owner is None:  # with no stage around it, what is bound in an ``extract`` ends with that
        owner = getattr(span, "otel_logging_block", None)
    if owner is None and current_job_tag() is not None:
        run = current_job()[1] = current_job()[1] or Run()
        owner = None if has_ended(run) else run
    restore(before.put(fields, owner))
    now = bound()
    if not RENAMED.isdisjoint(now):  # renamed ones may replace one another
        fields = {k: v for k, v in now.items() if k in fields or k.rstrip("_") in RENAMED}
        fields = as_attributes(fields)
    if entry is not span:
        set_attributes(span, fields)
    is_whose = not fields.keys().isdisjoint(_runtime.current.who)
    if is_whose and owner is entry:
        fields = _as_requests(entry, fields, before)
    set_attributes(entry, fields)
    if is_whose and _runtime.current.watch is not None:
        _runtime.current.watch.bind(entry, fields)


def _as_requests(entry: trace.Span, fields: Mapping[str, Any], before: Bound) -> dict[str, Any]:
    """Return *fields*, bound where *before* is, as the request has them: one user, or none."""
    users: Users = vars(entry).setdefault("otel_logging_users", Users())
    if type(before) is Shared and before.users is None:  # what is bound is everybody's
        users.change()
        return {**fields}
    whose = [key for key in _runtime.current.who if key in fields]
    for key in whose:
        users.bind(key, fields[key], before, entry)
    values = users.values()
    for key in whose:
        if key not in values:
            take_off(entry, key)
    return {k: values.get(k, v) for k, v in fields.items() if k in values or k not in whose}


def user_changed_ns(span: Any) -> int:
    """Return when a user was bound last in the place of another, in the request of *span*."""
    users: Users | None = getattr(entry_of(span), "otel_logging_users", None)
    return 0 if users is None else users.changed_ns


def take_off(span: Any, key: str) -> None:
    """Take an attribute off *span*, whoever made it. Never raises."""
    try:
        span._attributes.pop(key, None)  # noqa: SLF001 - OpenTelemetry has no other way
    except Exception as error:
        _diagnostics.report("fields lost: a span did not give one back", detail=error)


def set_attributes(span: trace.Span, fields: Mapping[str, Any]) -> None:
    """Set *fields* on *span* if it is recording, whoever made it. Never raises."""
    try:
        if span.is_recording():  # ours makes them plain itself
            span.set_attributes(fields if hasattr(span, "add_line") else _json.flat(fields))
    except Exception as error:
        _diagnostics.report("fields lost: a span did not take them", detail=error)


def _is_open(span: trace.Span) -> bool:
    return is_local(span) and not has_ended(span)


def unbind_context(*keys: str) -> None:
    """Take *keys* off later lines and spans. Scope: this task. Failure: never raises."""
    if type(now := state()) is Shared and now.users is None:
        now.replace({key: value for key, value in now.own.items() if key not in keys})
    else:
        restore(now.without(keys))


def clear_context() -> None:
    """Take everything that is bound off later lines and spans. Scope: this task."""
    restore(NOTHING)


class Standing:
    """Stands for one of several spans, whichever is *now* what a connection is about.

    Current in a connection's context, and in copies of it. No request's entry stage: what is
    opened in it is opened in the span that it stands for.
    """

    otel_logging_closed = otel_logging_passed = False
    end_time = otel_logging_token = None
    otel_logging_outer = otel_context.Context()

    def __init__(self, now: trace.Span, task: object = None) -> None:
        self.now, self.task = now, task

    def __getattr__(self, name: str) -> Any:
        if name == ENTRY:
            raise AttributeError(name)
        return getattr(self.now, name)


trace.Span.register(Standing)


def share(span: Any, *, with_users: bool) -> None:
    """Begin the request of *span*, its entry span; *with_users*: it has any task's user."""
    if binding.STRUCTLOGS:
        span.otel_logging_structlogs = binding.structlogs()
    if with_users:
        users = span.otel_logging_users = Users()
        restore(Shared({}, span, state(), users))


class Here(NamedTuple):
    """What is current and bound in a context."""

    bound: Bound
    context: otel_context.Context
    job: Job

    @classmethod
    def now(cls) -> "Here":
        """Return what is current and bound."""
        return cls(state(), get_current(), current_job())

    def is_any(self) -> bool:
        """Return whether something is current or bound."""
        return bool(self.context or self.bound.values or self.job[0])

    def put_back(self) -> None:
        """Make it current and bound, in whichever context this is called."""
        set_current(self.context)
        restore(self.bound)
        job.set(self.job)


class _Entered(NamedTuple):
    """A scope that a task is in: what was current and bound *before* it, what was bound then."""

    scope: "Scoped"
    block: Block
    before: Here
    bound: Bound


_open: ContextVar[tuple[_Entered, ...]] = ContextVar("otel_logging.open", default=())


class Scoped:
    """A ``with`` block that is also a decorator of any callable.

    What it has to restore is kept in the task: any number may enter one object at once, and a
    block that is left in another task (a generator closed from elsewhere) changes nothing there.
    """

    def _begin(self, block: Block) -> None:
        raise NotImplementedError  # pragma: no cover - each subclass has its own

    def _end(self, entered: _Entered) -> None:
        entered.before.put_back()

    def __enter__(self) -> None:
        block, before = Block(), Here.now()
        self._begin(block)
        # another task may have left some
        here = (each for each in _open.get() if not each.block.otel_logging_closed)
        _open.set((*here, _Entered(self, block, before, state())))

    def __exit__(self, *error: object) -> None:
        scopes = _open.get()
        for at in reversed(range(len(scopes))):
            if (entered := scopes[at]).scope is self:
                entered.block.otel_logging_closed = True
                _open.set(scopes[:at] + scopes[at + 1 :])
                self._end(entered)
                return

    def __call__(self, function: F) -> F:
        """Decorate *function*: each call is inside."""
        return wrap(function, lambda _: self.__enter__(), lambda *_: self.__exit__(), None)


class bound_context(Scoped):  # noqa: N801 - reads as a verb, like structlog's
    """Put *fields* on every line, and every span opened, inside a ``with`` block or a function.

    Spans that are open already do not get them; at the end the keys are what they were before. A
    task started inside keeps them, its requests of their own (``traced``) until the block ends.
    Scope: this task. Failure: never raises. Concurrency: one object may serve everywhere.
    """

    def __init__(self, /, **fields: Any) -> None:
        self._fields = fields

    def _begin(self, block: Block) -> None:
        restore(state().put(self._fields, block))

    def _end(self, entered: _Entered) -> None:
        now, before = state(), entered.before.bound
        restore(before if now is entered.bound else now.with_fields_of(before, self._fields))


class detached(Scoped):  # noqa: N801 - reads as a participle, like structlog's
    """Run a ``with`` block or a function on nobody's behalf: no span, no job tag, nothing bound.

    For work that outlives the request it was started in. Scope: this task. Failure: never raises.
    """

    def _begin(self, block: Block) -> None:
        if binding.STRUCTLOGS:
            block.structlogs = binding.leave_structlogs(entry_of(trace.get_current_span()))
        Here(NOTHING, otel_context.Context(), _NO_JOB).put_back()

    def _end(self, entered: _Entered) -> None:
        super()._end(entered)
        binding.restore_structlogs(entered.block.structlogs)


class unbound(Scoped):  # noqa: N801 - reads as a participle, like structlog's
    """Run a ``with`` block for a request of its own in the current span: no job, nothing bound."""

    def _begin(self, block: Block) -> None:  # noqa: ARG002 - nothing is bound for it
        Here(NOTHING, get_current(), _NO_JOB).put_back()


#: What begins when something arrives from outside.
ARRIVING: Final = (SpanKind.SERVER, SpanKind.CONSUMER)


def entry_of(span: trace.Span) -> trace.Span:
    """Return the entry span of the request that *span* is of."""
    return getattr(span, ENTRY, None) or span


def is_local(span: trace.Span) -> bool:
    """Say whether *span* is a stage of this process, rather than none or one come from outside."""
    if hasattr(span, ENTRY):
        return True
    context = span.get_span_context()
    return context.is_valid and not context.is_remote


class Unrecorded(trace.NonRecordingSpan):
    """Stands for a request without tracing: what is bound in it ends with it."""

    otel_logging_bound = otel_logging_budget = otel_logging_watched = None
    otel_logging_passed = otel_logging_closed = False

    def __init__(self, around: trace.Span) -> None:
        super().__init__(around.get_span_context())
        self.otel_logging_entry = entry_of(around) if is_local(around) else None


def begin(around: trace.Span, *, arrives: bool, root: bool = False) -> Bound:
    """Unbind what belongs to requests that are over; return what to bind again at the end.

    For a stage that does not continue *around*, the current span. *arrives*: it is of a kind in
    ``ARRIVING``; *root*: it has nothing of blocks that have ended either. A context that was copied
    in a request has its fields and its span for ever. There are two cases: if the request has
    ended, or something arrives, the task leaves the request for good; otherwise, after the stage,
    the task goes on as it was before.
    """
    before = state()
    if around is trace.INVALID_SPAN:
        is_over = arrives and before.lasting(has_ended) is not before
    elif is_local(around):
        is_over = has_ended(around) and (arrives or has_ended(entry_of(around)))
    else:
        is_over = arrives or (around.get_span_context().is_valid and not has_ended(around))
    if is_over:
        leave_behind(around)
        return state()
    if root:
        restore(before.lasting(has_ended))
    elif before.has_requests and not (arrives and around is trace.INVALID_SPAN):
        restore(before.lasting(lambda owner: type(owner) is not Block and has_ended(owner)))
    return before


def leave_behind(around: trace.Span) -> None:
    """Leave the request of *around*, and whatever has ended; scopes no longer give it back."""
    request = entry_of(around)
    binding.leave_structlogs(request)

    def is_over(owner: Any) -> bool:
        return owner is request or has_ended(owner)

    def left(here: Here) -> Here:
        context = here.context
        while has_ended(span := trace.get_current_span(context)) or (
            is_local(span) and entry_of(span) is request
        ):
            context = cast(otel_context.Context, getattr(span, OUTER, otel_context.Context()))
        return here._replace(bound=here.bound.lasting(is_over), context=context)

    left(Here.now()).put_back()
    _open.set(tuple(each._replace(before=left(each.before)) for each in _open.get()))
