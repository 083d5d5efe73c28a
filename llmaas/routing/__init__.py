"""Choosing where a request runs: candidates, then health, then policy, to an ordered plan. Pure, no I/O."""
