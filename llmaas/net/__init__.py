"""HTTP/1.1 in both directions, and what connections need: sockets, host names and the event loop."""
