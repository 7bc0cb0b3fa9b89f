"""What applications of others' frameworks leave, by the one call and no line of their own."""
