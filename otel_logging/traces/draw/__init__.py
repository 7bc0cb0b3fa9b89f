"""Spans in a terminal: the table of `late`, the waterfall of `show`, the outline of a test."""
