"""Tests of ``spool``."""
