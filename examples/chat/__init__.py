"""A chat gateway: FastAPI, WebSockets, rooms. How to run it: README.md."""

from chat.gateway import app

__all__ = ["app"]
