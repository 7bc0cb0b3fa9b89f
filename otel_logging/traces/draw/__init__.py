"""Pictures of spans: the table of `late`, the waterfall of `show` and the outline of a test, for a
terminal; and a page of HTML.
"""
