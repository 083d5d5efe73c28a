"""Engines as child processes of this machine."""
