"""``late``, ``show`` and ``doctor`` at a real Jaeger, run as a process of this machine."""

from tests.backends.reading import ReadingCases, reader

__all__ = ["reader"]


class TestNative(ReadingCases):
    """Everything that must be true."""
