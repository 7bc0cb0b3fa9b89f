"""``otel-logging``, and ``python -m otel_logging`` where that is not on the path."""


def start() -> None:
    """Run the command. Ctrl-C ends it as it ends a command that runs, also while it is imported."""
    try:
        from otel_logging.cli import main

        main()
    except KeyboardInterrupt:
        raise SystemExit("\nAborted!") from None


if __name__ == "__main__":
    start()
