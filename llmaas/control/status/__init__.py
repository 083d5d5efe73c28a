"""How models, machines and this process are."""
