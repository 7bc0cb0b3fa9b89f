"""What the desk shows and takes over HTTP."""

from dataclasses import asdict
from typing import Any

from flask import Blueprint, abort, current_app, request

from trading.desk import Desk

routes = Blueprint("desk", __name__)


def _desk() -> Desk:
    desk: Desk = current_app.extensions["desk"]
    return desk


@routes.get("/prices")
def prices() -> dict[str, float]:
    """Return what everything costs."""
    return _desk().prices


@routes.get("/portfolio")
def portfolio() -> dict[str, Any]:
    """Return what is held, and what it is worth."""
    desk = _desk()
    current_app.logger.info("portfolio asked for by %s", request.remote_addr)
    return {"cash": desk.cash, "positions": desk.positions, "equity": desk.equity()}


@routes.post("/orders")
def order() -> tuple[dict[str, Any], int]:
    """Take an order: symbol, quantity, limit."""
    given: Any = request.get_json()
    try:
        symbol, quantity, limit = given["symbol"], float(given["quantity"]), float(given["limit"])
    except (TypeError, KeyError, ValueError):
        current_app.logger.warning("order refused: %r", given)
        abort(400)
    if symbol not in _desk().exchange.rules():
        current_app.logger.warning("order refused: no symbol %r", symbol)
        abort(404)
    return asdict(_desk().place(symbol, quantity, limit, source="web")), 201
