"""Speaking to inference servers: one contract, what all kinds share, and a folder for each language."""
