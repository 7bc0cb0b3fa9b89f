"""Read side: how traces are read back, and what is made of them."""
