"""The ten background jobs. ``timetable.py`` says how often each of them runs."""

import math
from itertools import pairwise

from flask import Flask, current_app

from otel_logging import tag_background_logger
from trading.desk import PORTFOLIO, TARGETS, Desk, Locked
from trading.exchange import ExchangeError
from trading.tags import JobTag


def _desk(app: Flask) -> Desk:
    desk: Desk = app.extensions["desk"]
    return desk


@tag_background_logger(JobTag.PRECISION_CACHE)
def refresh_precision(app: Flask) -> None:
    """Keep the exchange's tick and lot sizes."""
    desk = _desk(app)
    rules = desk.exchange.rules()
    changed = [symbol for symbol in rules if desk.rules.get(symbol) != rules[symbol]]
    desk.rules = rules
    app.logger.info("precision cache: %s symbols, %s changed", len(rules), len(changed))


@tag_background_logger(JobTag.PRICE_CACHE)
def refresh_prices(app: Flask) -> None:
    """Keep what everything costs."""
    desk = _desk(app)
    before = dict(desk.prices)
    try:
        desk.note_prices(desk.exchange.quotes())
    except ExchangeError as error:
        app.logger.warning("price cache: kept as it was, %s", error)
        return
    moves = {s: desk.prices[s] / price - 1 for s, price in before.items()}
    widest = max(moves, key=lambda symbol: abs(moves[symbol]), default="none")
    app.logger.info(
        "price cache: %s symbols, widest move %s %+.3f%%",
        len(desk.prices),
        widest,
        100 * moves.get(widest, 0.0),
    )


@tag_background_logger(JobTag.ORDER_UPDATE)
def update_orders(app: Flask) -> None:
    """See which orders have been filled."""
    desk = _desk(app)
    filled = desk.fill(desk.exchange.quotes())
    app.logger.info("orders: %s filled, %s open", len(filled), len(desk.open_orders))


@tag_background_logger(JobTag.PNL_CALC)
def calculate_pnl() -> None:
    """Calculate profit and loss. Needs an application context."""
    desk = _desk(current_app)
    desk.equity_curve.append(desk.equity())
    current_app.logger.info(
        "pnl: %+.2f realised, %+.2f unrealised", desk.realised, desk.unrealised()
    )


@tag_background_logger(JobTag.DAILY_SUMMARY)
def summarise_day() -> None:
    """Sum the day up. Needs an application context."""
    desk = _desk(current_app)
    trades = list(desk.trades)
    turnover = sum(abs(trade.quantity) * (trade.price or 0.0) for trade in trades)
    for symbol in sorted({trade.symbol for trade in trades}):
        bought = sum(trade.quantity for trade in trades if trade.symbol == symbol)
        current_app.logger.info("daily summary: %s %+.4f", symbol, bought)
    current_app.logger.info("daily summary: %s trades, turnover %.2f", len(trades), turnover)


@tag_background_logger(JobTag.AUTO_REBAL)
def rebalance(app: Flask) -> None:
    """Order what brings the portfolio back to its targets."""
    desk = _desk(app)
    try:
        with desk.locked(PORTFOLIO, "rebalancing"):
            equity = desk.equity()
            for n, (symbol, share) in enumerate(TARGETS.items(), start=1):
                if price := desk.prices.get(symbol):
                    drift = share - desk.positions.get(symbol, 0.0) * price / equity
                    if abs(drift) > 0.01:
                        limit = price * (1.002 if drift > 0 else 0.998)
                        desk.place(symbol, drift * equity / price, limit, source="rebalancing")
                else:
                    app.logger.warning("rebalancing: no price of %s yet", symbol)
                app.logger.info("rebalancing: progress %s%%", 100 * n // len(TARGETS))
    except Locked:
        app.logger.exception("rebalancing: skipped")


@tag_background_logger(JobTag.PERF_CALC)
def calculate_performance(app: Flask) -> None:
    """Calculate return, drawdown and Sharpe ratio of the equity curve."""
    curve = list(_desk(app).equity_curve)
    if len(curve) < 3:
        app.logger.info("performance: too early to say, %s points", len(curve))
        return
    steps = [later / earlier - 1 for earlier, later in pairwise(curve)]
    mean = sum(steps) / len(steps)
    deviation = math.sqrt(sum((step - mean) ** 2 for step in steps) / (len(steps) - 1))
    peak, drawdown = curve[0], 0.0
    for value in curve:
        peak = max(peak, value)
        drawdown = max(drawdown, 1 - value / peak)
    app.logger.info(
        "performance: return %+.3f%%, drawdown %.3f%%, sharpe %.2f",
        100 * (curve[-1] / curve[0] - 1),
        100 * drawdown,
        mean / deviation * math.sqrt(len(steps)) if deviation else 0.0,
    )


@tag_background_logger(JobTag.LOCK_RELEASE)
def release_locks(app: Flask) -> None:
    """Release locks whose holder has forgotten them."""
    released = _desk(app).release_older_than(120)
    for name, holder, age in released:
        app.logger.warning("locks: %s of %s released after %.0f s", name, holder, age)
    app.logger.info("locks: %s released", len(released))


@tag_background_logger(JobTag.WS_HEALTH)
def check_feeds(app: Flask) -> None:
    """Reconnect the exchange's feeds that have gone silent."""
    exchange = _desk(app).exchange
    silences = exchange.silences()
    silent = [feed for feed, seconds in silences.items() if seconds > 15]
    for feed in silent:
        app.logger.warning("feeds: %s silent for %.0f s", feed, silences[feed])
        exchange.reconnect(feed)
    app.logger.info("feeds: %s of %s alive", len(silences) - len(silent), len(silences))


@tag_background_logger(JobTag.MARKET_INFO)
def refresh_market(app: Flask) -> None:
    """Keep each symbol's high, low and range."""
    desk = _desk(app)
    for symbol, prices in desk.history.items():
        seen = list(prices)
        high, low = max(seen), min(seen)
        desk.market[symbol] = {"high": high, "low": low, "range": high / low - 1}
    ranges = {symbol: of["range"] for symbol, of in desk.market.items()}
    widest = max(ranges, key=lambda symbol: ranges[symbol], default="none")
    app.logger.info(
        "market: %s symbols, widest range %s %.3f%%",
        len(ranges),
        widest,
        100 * ranges.get(widest, 0.0),
    )
