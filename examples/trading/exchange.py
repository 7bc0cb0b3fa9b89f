"""The exchange: prices that walk, trading rules, feeds. Simulated, in this process's memory."""

import logging
import math
import random
import threading
import time
from dataclasses import dataclass
from typing import Final

logger = logging.getLogger(__name__)

_YEAR_S: Final = 365 * 24 * 3600
_FEEDS: Final = ("trades", "book", "orders")
_REFUSES_EVERY: Final = 25  # requests: exchanges limit their rate


class ExchangeError(Exception):
    """The exchange did not answer as hoped."""


@dataclass(frozen=True)
class Rules:
    """How a symbol is traded: prices in steps of *tick*, quantities in steps of *lot*."""

    tick: float
    lot: float


@dataclass
class _Listing:
    price: float
    volatility: float  # a year
    rules: Rules


class Exchange:
    """Six symbols, whose prices are geometric random walks; *speed* seconds pass in one."""

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._random = random.Random()
        self._lock = threading.Lock()
        self._moved_at = self.now()
        self._requests = 0
        self._listings = {
            "BTC": _Listing(61_250.0, 0.55, Rules(0.1, 0.0001)),
            "ETH": _Listing(3_380.0, 0.70, Rules(0.01, 0.001)),
            "SOL": _Listing(142.0, 0.95, Rules(0.01, 0.01)),
            "ADA": _Listing(0.385, 0.90, Rules(0.0001, 1.0)),
            "XMR": _Listing(164.0, 0.60, Rules(0.01, 0.01)),
            "LTC": _Listing(71.3, 0.65, Rules(0.01, 0.01)),
        }
        self._heard = dict.fromkeys(_FEEDS, self.now())

    def now(self) -> float:
        """Return the exchange's clock, in seconds."""
        return time.monotonic() * self._speed

    def rules(self) -> dict[str, Rules]:
        """Return the trading rules of each symbol."""
        return {symbol: listing.rules for symbol, listing in self._listings.items()}

    def quotes(self) -> dict[str, float]:
        """Return what each symbol costs now. Raises ``ExchangeError`` when asked too often."""
        with self._lock:
            self._requests += 1
            if self._requests % _REFUSES_EVERY == 0:
                raise ExchangeError(f"429 too many requests: {self._requests} so far")
            elapsed = self.now() - self._moved_at
            self._moved_at += elapsed
            for listing in self._listings.values():
                spread = listing.volatility * math.sqrt(elapsed / _YEAR_S)
                listing.price *= math.exp(self._random.gauss(-spread * spread / 2, spread))
            return {symbol: listing.price for symbol, listing in self._listings.items()}

    def silences(self) -> dict[str, float]:
        """Return for each feed how long it has been silent, in seconds."""
        now = self.now()
        for feed in _FEEDS:
            if self._random.random() < 0.9:  # the others have lost their connection
                self._heard[feed] = now
        return {feed: now - heard for feed, heard in self._heard.items()}

    def reconnect(self, feed: str) -> None:
        """Open a feed's connection again."""
        self._heard[feed] = self.now()
        logger.info("feed %s connected", feed)
