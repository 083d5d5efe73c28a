"""Engines that speak as OpenAI does."""
