"""The admin API, `/api/v1`: one file of handlers for each noun, thin, over the stores and services that they are handed."""
