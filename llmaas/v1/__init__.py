"""The OpenAI-compatible surface under `/v1`, and the probes. The hot path: plain ASGI and msgspec."""
