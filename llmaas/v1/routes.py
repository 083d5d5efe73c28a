"""The table of this surface: path -> credential -> handler, and nothing else."""

from __future__ import annotations

from llmaas.domain.keys import Permission
from llmaas.v1 import openapi
from llmaas.v1.health import HealthHandlers
from llmaas.v1.inference import InferenceHandlers
from llmaas.v1.models import ModelHandlers
from llmaas.web.routes import Route


def routes(inference: InferenceHandlers, models: ModelHandlers, health: HealthHandlers) -> list[Route]:
    use, measure = Permission.INFERENCE_USE, Permission.METRICS_READ
    return [
        Route("POST", "/v1/chat/completions", use, inference.chat, "chatcmpl-", openapi.CHAT),
        Route("POST", "/v1/completions", use, inference.complete, "cmpl-", openapi.COMPLETION),
        Route("POST", "/v1/embeddings", use, inference.embed, "embd-", openapi.EMBEDDING),
        Route("GET", "/v1/models", use, models.list, operation=openapi.MODELS),
        Route("GET", "/v1/models/{rest}", use, models.get, operation=openapi.MODEL),
        Route("GET", "/healthz", "public", health.healthz, operation=openapi.HEALTH),
        Route("GET", "/health", "public", health.healthz, operation=openapi.HEALTH_TOO),
        Route("GET", "/readyz", "public", health.readyz, operation=openapi.READY),
        Route("GET", "/metrics", measure, health.metrics, operation=openapi.METRICS),
    ]
