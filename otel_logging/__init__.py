"""Bridge OpenTelemetry and structlog."""
