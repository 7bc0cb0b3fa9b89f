"""Where context enters from other people's libraries: one file a framework."""
