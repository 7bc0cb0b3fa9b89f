"""Real servers in child processes, and the applications that they serve."""
