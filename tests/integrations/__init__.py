"""What applications of other people's frameworks leave, by the one call and no line of their own."""
