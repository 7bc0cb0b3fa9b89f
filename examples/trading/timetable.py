"""How often each job runs, and the scheduler that runs them."""

import atexit
import functools
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from apscheduler.schedulers.background import BackgroundScheduler
from flask import Flask

from trading import jobs

_MINUTE_S: Final = 60
_HOUR_S: Final = 60 * _MINUTE_S

#: Jobs that are called with the application, and every how many seconds; in the order of a start.
TIMETABLE: Final = (
    (jobs.refresh_precision, 6 * _HOUR_S),
    (jobs.refresh_prices, 30),
    (jobs.check_feeds, 20),
    (jobs.refresh_market, _HOUR_S),
    (jobs.rebalance, 17 * _MINUTE_S),
    (jobs.update_orders, 29),
    (jobs.release_locks, 45),
    (jobs.calculate_performance, 5 * _MINUTE_S),
)
#: Jobs that look for ``current_app``.
IN_CONTEXT: Final = (
    (jobs.calculate_pnl, _MINUTE_S),
    (jobs.summarise_day, 24 * _HOUR_S),
)


def start(app: Flask) -> None:
    """Run the jobs in this process, each once at once and then by the timetable.

    Under gunicorn every worker does: the desk whose caches they keep is in the
    worker's own memory. ``flask run --debug`` loads the application twice, and
    only the reloaded one, which serves, has a use for them.
    """
    if app.debug and os.environ.get("WERKZEUG_RUN_MAIN") != "true":
        return
    scheduler = BackgroundScheduler(timezone=UTC)
    scheduler.start()
    atexit.register(scheduler.shutdown)  # which lets jobs that run come to their end
    speed = app.config["SPEED"]
    begin = datetime.now(UTC)

    def add(job: Callable[..., Any], seconds: float, *args: Any) -> None:
        nonlocal begin
        scheduler.add_job(job, "interval", args, seconds=seconds / speed, next_run_time=begin)
        begin += timedelta(seconds=1 / speed)

    for job, seconds in TIMETABLE:
        add(job, seconds, app)
    for job_in_context, seconds in IN_CONTEXT:
        add(_in_context(app, job_in_context), seconds)


def _in_context(app: Flask, job: Callable[[], None]) -> Callable[[], None]:
    @functools.wraps(job)
    def run() -> None:
        with app.app_context():
            job()

    return run
