"""What the surfaces of the control plane share: accounts, the state of models and processes, spans of time, and the services that
handlers are given.
"""
