"""What the product means: pure, no I/O, no wire format."""
