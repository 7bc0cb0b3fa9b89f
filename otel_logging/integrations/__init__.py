"""Where context enters from other people's libraries: one file a library, four for ASGI."""
