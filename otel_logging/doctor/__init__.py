"""``otel-logging doctor``: sends a probe to Jaeger and back, and says what is wrong on the way."""
