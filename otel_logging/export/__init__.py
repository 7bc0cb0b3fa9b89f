"""What the OpenTelemetry SDK sees of us, and how ended spans leave the process."""
