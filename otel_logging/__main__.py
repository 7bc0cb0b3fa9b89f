"""``python -m otel_logging``: the commands, where ``otel-logging`` is not on the path."""

from otel_logging.cli import main

main()
