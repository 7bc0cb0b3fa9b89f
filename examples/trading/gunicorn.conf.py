"""For gunicorn's own process, which never loads the application: what it says are lines too.

Not needed for what the application says, in whose workers the call is made again
and changes nothing.
"""

from otel_logging import setup_observability

setup_observability("trading")
