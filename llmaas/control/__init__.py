"""The verbs of the control plane. Takes an actor and plain values, raises the errors of `llmaas.errors`."""
