"""Speaking to inference servers: one contract (`base`), one file for each language, one HTTP transport (`http`)."""
