"""The desk: what is held, what is ordered, what is known of the market. In memory."""

import itertools
import logging
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from trading.exchange import Exchange, Rules

logger = logging.getLogger(__name__)

PORTFOLIO: Final = "portfolio"
#: What of the equity is to be held in which symbol; the rest is cash.
TARGETS: Final = {"BTC": 0.30, "ETH": 0.25, "SOL": 0.10, "ADA": 0.05, "XMR": 0.10, "LTC": 0.05}


def in_steps(number: float, step: float) -> float:
    """Return the multiple of *step* that is next to *number*, as a person writes it."""
    return round(round(number / step) * step, 8)


class Locked(Exception):  # noqa: N818 - says what is
    """Somebody else holds the lock."""


@dataclass
class Order:
    """To buy *quantity* (to sell, where it is negative), at *limit* or better."""

    id: str
    symbol: str
    quantity: float
    limit: float
    price: float | None = None  # once it is filled


@dataclass
class Desk:
    """One trading desk. *prices*, *rules* and *market* are caches that jobs keep fresh."""

    exchange: Exchange
    cash: float = 250_000.0
    positions: dict[str, float] = field(default_factory=dict)
    paid: dict[str, float] = field(default_factory=dict)  # for what is held of a symbol
    realised: float = 0.0
    prices: dict[str, float] = field(default_factory=dict)
    rules: dict[str, Rules] = field(default_factory=dict)
    market: dict[str, dict[str, float]] = field(default_factory=dict)
    history: dict[str, deque[float]] = field(default_factory=dict)
    equity_curve: deque[float] = field(default_factory=lambda: deque(maxlen=10_000))
    open_orders: dict[str, Order] = field(default_factory=dict)
    trades: deque[Order] = field(default_factory=lambda: deque(maxlen=10_000))
    locks: dict[str, tuple[str, float]] = field(default_factory=dict)  # holder, since

    def __post_init__(self) -> None:
        self._guard = threading.RLock()
        self._numbers = itertools.count(1)

    def rounded(self, symbol: str, price: float) -> float:
        """Return *price* in steps of the symbol's tick, once that is known."""
        rules = self.rules.get(symbol)
        return price if rules is None else in_steps(price, rules.tick)

    def note_prices(self, quotes: dict[str, float]) -> None:
        """Keep what the exchange says."""
        for symbol, price in quotes.items():
            self.prices[symbol] = self.rounded(symbol, price)
            self.history.setdefault(symbol, deque(maxlen=2_880)).append(self.prices[symbol])

    def place(self, symbol: str, quantity: float, limit: float, *, source: str) -> Order:
        """Order, in whole lots."""
        lot = self.rules[symbol].lot if symbol in self.rules else 0.01
        with self._guard:
            order = Order(
                f"{source}-{next(self._numbers)}",
                symbol,
                in_steps(quantity, lot),
                self.rounded(symbol, limit),
            )
            self.open_orders[order.id] = order
        logger.info("order %s placed: %s %s at %s", order.id, order.quantity, symbol, order.limit)
        return order

    def fill(self, quotes: dict[str, float]) -> list[Order]:
        """Fill the open orders whose limit is met, and return them."""
        filled = []
        with self._guard:
            for order in list(self.open_orders.values()):
                price = self.rounded(order.symbol, quotes[order.symbol])
                if price <= order.limit if order.quantity > 0 else price >= order.limit:
                    self._settle(order, price)
                    filled.append(order)
        for order in filled:
            logger.info("order %s filled at %s", order.id, order.price)
        return filled

    def _settle(self, order: Order, price: float) -> None:
        order.price = price
        held = self.positions.get(order.symbol, 0.0)
        paid = self.paid.get(order.symbol, 0.0)
        if order.quantity < 0 < held:
            share = min(-order.quantity / held, 1.0)
            self.realised += share * (price * held - paid)
            self.paid[order.symbol] = paid * (1 - share)
        else:
            self.paid[order.symbol] = paid + order.quantity * price
        self.positions[order.symbol] = held + order.quantity
        self.cash -= order.quantity * price
        self.trades.append(self.open_orders.pop(order.id))

    def unrealised(self) -> float:
        """Return what the positions are worth over what was paid for them."""
        with self._guard:
            return sum(
                quantity * self.prices.get(symbol, 0.0) - self.paid[symbol]
                for symbol, quantity in self.positions.items()
            )

    def equity(self) -> float:
        """Return what everything is worth."""
        with self._guard:
            return self.cash + sum(
                quantity * self.prices.get(symbol, 0.0)
                for symbol, quantity in self.positions.items()
            )

    @contextmanager
    def locked(self, name: str, holder: str) -> Iterator[None]:
        """Hold a lock; raises ``Locked`` where somebody has it."""
        with self._guard:
            if name in self.locks:
                raise Locked(f"{name} is locked by {self.locks[name][0]}")
            self.locks[name] = (holder, self.exchange.now())
        try:
            yield
        finally:
            self.locks.pop(name, None)

    def release_older_than(self, seconds: float) -> list[tuple[str, str, float]]:
        """Release forgotten locks; return name, holder and age of each."""
        now = self.exchange.now()
        with self._guard:
            old = [
                (name, holder, now - since)
                for name, (holder, since) in self.locks.items()
                if now - since > seconds
            ]
            for name, _, _ in old:
                del self.locks[name]
        return old
