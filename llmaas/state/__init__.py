"""Live counters of limits: in this process alone, or shared through Valkey and SQL by leases. See docs/limits.md."""
