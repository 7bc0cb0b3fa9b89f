"""The jobs of this application, by the tag on their log lines: the one central list."""

from otel_logging import BackgroundJobTag


class JobTag(BackgroundJobTag):
    """Which job a line was logged for."""

    PRECISION_CACHE = "PRECISION_CACHE"
    PRICE_CACHE = "PRICE_CACHE"
    ORDER_UPDATE = "ORDER_UPDATE"
    PNL_CALC = "PNL_CALC"
    DAILY_SUMMARY = "DAILY_SUMMARY"
    AUTO_REBAL = "AUTO_REBAL"
    PERF_CALC = "PERF_CALC"
    LOCK_RELEASE = "LOCK_RELEASE"
    WS_HEALTH = "WS_HEALTH"
    MARKET_INFO = "MARKET_INFO"
