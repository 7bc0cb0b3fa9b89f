"""``late``, ``show`` and ``doctor`` at a real Jaeger, through the published ports."""

from tests.backends.reading import ReadingCases, reader

__all__ = ["reader"]


class TestCompose(ReadingCases):
    """Everything that must be true."""
