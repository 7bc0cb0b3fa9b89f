"""``otel-logging doctor``: a probe on its way to Jaeger and back; where it ends, what is wrong."""
