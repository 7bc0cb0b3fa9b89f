"""``otel-logging``, and ``python -m otel_logging`` where that is not on the path."""

import errno
import os

_FULL = (errno.ENOSPC, errno.EDQUOT)


def start() -> None:
    """Run the command. Ctrl-C ends it as it ends a command that runs, also while it is imported; a
    full disk with one line.
    """
    try:
        try:
            from otel_logging.cli import main

            main()
        finally:
            print(end="", flush=True)  # noqa: T201  # nothing where there is no stdout
    except KeyboardInterrupt:
        raise SystemExit("\nAborted!") from None
    except OSError as error:
        if error.errno not in (*_FULL, errno.EPIPE):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python tries what is left again at exit
        said = f"Error: standard output cannot be written: {error.strerror}"
        raise SystemExit(said if error.errno in _FULL else 1) from None


if __name__ == "__main__":
    start()
