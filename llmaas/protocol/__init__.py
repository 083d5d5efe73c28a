"""Wire types and their rules: what callers send, what engines answer, what callers get. No I/O."""
