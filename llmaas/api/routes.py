"""The table of this surface: path -> credential -> handler, and nothing else."""

from __future__ import annotations

from llmaas.api.health import HealthHandlers
from llmaas.api.inference import InferenceHandlers
from llmaas.api.models import ModelHandlers
from llmaas.domain.keys import Permission
from llmaas.web.routes import Route


def routes(inference: InferenceHandlers, models: ModelHandlers, health: HealthHandlers) -> list[Route]:
    use, measure = Permission.INFERENCE_USE, Permission.METRICS_READ
    return [
        Route("POST", "/v1/chat/completions", use, inference.chat, "chatcmpl-"),
        Route("POST", "/v1/completions", use, inference.complete, "cmpl-"),
        Route("POST", "/v1/embeddings", use, inference.embed, "embd-"),
        Route("GET", "/v1/models", use, models.list),
        Route("GET", "/v1/models/{rest}", use, models.get),
        Route("GET", "/healthz", "public", health.healthz),
        Route("GET", "/readyz", "public", health.readyz),
        Route("GET", "/metrics", measure, health.metrics),
    ]
