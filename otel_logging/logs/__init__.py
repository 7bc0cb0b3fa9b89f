"""Log half: how a line is made."""
