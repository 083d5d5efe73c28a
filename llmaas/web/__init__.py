"""HTTP plumbing that both surfaces share: routes, credentials, bodies, answers. Plain ASGI."""
