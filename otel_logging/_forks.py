"""Forked children: each part of the package begins anew there, in one written order.

In: parts that own something of their process (descriptors, locks, threads, a
resource). Out: their ``after_fork``, once in each child. Python tells of its own forks.
It does not know of a fork in C (uWSGI's workers), so code looks at ``mark`` before it
uses what a child must not share. Invariant: never raises.
Deliberately absent: what a part does.
"""

import mmap
import os
import sys
import weakref
from contextlib import suppress
from enum import IntEnum
from typing import Any, Final

from otel_logging import _diagnostics
from otel_logging._green import RLock


class Step(IntEnum):
    """The order: when a part begins anew, the parts before it already have."""

    SPOOL = 1
    PIPELINE = 2
    DELIVERY = 3
    RECORDS = 4
    WATCH = 5
    EXIT = 6


#: The process that all parts are of.
pid = os.getpid()


class _ByProcessId(dict[int, int]):
    """Stands for ``mark``: tells a child by the process id, if no memory can."""

    def __getitem__(self, _: int) -> bool:
        return os.getpid() == pid


def _marked() -> Any:
    """Return memory whose first byte is 1, and 0 in each child. It costs a tenth of ``getpid``.

    First comes BoringSSL's test: ``madvise`` must refuse the advice -1. A system that takes it
    (QEMU) ignores all advice, also ours.
    """
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with suppress(OSError):
            page.madvise(-1)
            return _ByProcessId()  # pragma: no cover - such a system
        page.madvise(18)  # Linux's MADV_WIPEONFORK, which Python has no name for
    except (AttributeError, OSError):  # pragma: no cover - another system
        return _ByProcessId()
    page[0] = 1
    return page


#: Its first item is false in a child in which the parts have not begun anew.
mark: Final = _marked()

#: Held while a thread of ours imports a module. A fork waits for it; otherwise the child would wait
#: for ever for a module that another thread of its parent was importing.
importing: Final = RLock()
#: Held while stacks of other threads are read; for the same reason.
reading_stacks: Final = RLock()

#: Each part has an ``after_fork()``, which makes it the child's own.
_parts: Final[dict[Step, "weakref.WeakSet[Any]"]] = {step: weakref.WeakSet() for step in Step}
#: By process id: a thread that the child does not have may hold the parent's lock.
_turns: Final = dict[int, Any]()
_is_following = False
_is_registered = False  # our hooks


def join(step: Step, part: Any) -> None:
    """Let *part* begin anew in every child, as long as it lives."""
    global _is_registered, pid
    _parts[step].add(part)
    if not _is_registered and hasattr(os, "register_at_fork"):  # pragma: no branch - not on Windows
        # now, not on import: hooks run in order, and ours use what earlier hooks mend
        _is_registered = True
        # we may have been imported before a fork, and set up after it
        pid, mark[0] = os.getpid(), 1
        for lock in (importing, reading_stacks):
            os.register_at_fork(
                before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release
            )
        os.register_at_fork(after_in_child=_after_fork)


def is_before_fork() -> bool:
    """Say whether uWSGI forks its workers from this process: no thread of ours may run in it.

    A thread that runs at a fork in C leaves the child an interpreter lock that nobody releases.
    """
    worker_id = getattr(sys.modules.get("uwsgi"), "worker_id", None)
    return worker_id is not None and worker_id() == 0


def check() -> None:
    """Begin anew if this is a child that was forked in C.

    What runs for every line reads ``mark`` itself. Concurrency: any thread; a second one waits
    until the first is done.
    """
    if not mark[0]:
        with _turns.setdefault(os.getpid(), RLock()):
            _after_fork()


def _after_fork() -> None:
    global pid, _is_following
    if os.getpid() == pid or _is_following:  # done; a signal handler logs in the middle of it
        return
    _is_following = True
    for step in Step:
        for part in list(_parts[step]):
            try:
                part.after_fork()
            except Exception as error:
                _diagnostics.report("errors in a forked child", detail=error)
    pid, mark[0] = os.getpid(), 1
    _is_following = False
    _turns.clear()
