"""The one use case: a request becomes an answer and a usage row."""
