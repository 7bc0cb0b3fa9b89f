"""Where context enters and leaves a process, or is handed over: one file a framework."""
