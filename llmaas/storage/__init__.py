"""SQL adapters of `domain.ports`: SQLAlchemy Core for the control plane, the driver itself for the ledger's writer."""
