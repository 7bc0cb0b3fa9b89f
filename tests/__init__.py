"""Tests; a package so that ``tests.receiver`` is found however pytest is started."""
