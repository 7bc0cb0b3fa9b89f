"""Tests of the spool: ``_segment``, ``_places``, ``_spool``."""
