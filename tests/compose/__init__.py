"""The real collector and the real Jaeger, as the shipped compose file runs them."""
