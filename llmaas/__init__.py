"""llmaas: self-hosted LLM as a Service. Start reading at `docs/architecture.md`."""

__version__ = "0.1.0"
