"""gunicorn's worker for eventlet, which gunicorn itself has up to version 25."""

import functools
from typing import Any

import eventlet
import eventlet.hubs
from eventlet.greenio import GreenSocket
from gunicorn.workers.base_async import AsyncWorker

eventlet.monkey_patch()  # in the master, when it loads this class


class EventletWorker(AsyncWorker):  # type: ignore[misc]
    """Serves each connection in a green thread; ends when those that are open have ended."""

    def init_process(self) -> None:
        eventlet.hubs.use_hub()  # not before the fork
        super().init_process()

    def timeout_ctx(self) -> Any:
        return eventlet.Timeout(self.cfg.keepalive or None, False)

    def run(self) -> None:
        serving = [self._serve(GreenSocket(listening)) for listening in self.sockets]
        while self.alive:
            self.notify()
            eventlet.sleep(1.0)
        with eventlet.Timeout(self.cfg.graceful_timeout, False):
            for accepting, pool in serving:
                accepting.kill()
                pool.waitall()

    def _serve(self, listening: Any) -> tuple[Any, eventlet.GreenPool]:
        listening.setblocking(1)
        pool = eventlet.GreenPool(self.worker_connections)
        return eventlet.spawn(self._accept, listening, pool), pool

    def _accept(self, listening: Any, pool: eventlet.GreenPool) -> None:
        while True:
            client, address = listening.accept()
            pool.spawn(functools.partial(self.handle, listening, client, address))
