"""Telling people and programs of alerts: e-mail, and webhooks that are signed."""
