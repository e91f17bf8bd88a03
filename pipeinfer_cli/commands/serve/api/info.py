"""Endpoints that tell what there is: model, state, metrics, tokens."""

from __future__ import annotations

import time

from anyio.to_thread import run_sync
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from pipeinfer_cli.checks import MAX_COUNT
from pipeinfer_cli.commands.serve.api.answers import Fields
from pipeinfer_cli.commands.serve.api.schema import DetokenizeBody, TokenizeBody
from pipeinfer_cli.commands.serve.api.service import Service
from pipeinfer_cli.commands.serve.http.body import read_as
from pipeinfer_cli.commands.serve.http.errors import ApiError
from pipeinfer_cli.launch.environment import resident_bytes

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Info:
    """The endpoints."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def health(self, _request: Request) -> Response:
        """GET /health: 200 once requests are answered."""
        phase = self._service.phase
        if phase == "ready":
            return JSONResponse({"status": "ok"})
        words = {"loading": "loading the model", "draining": "the server is about to end"}
        error = ApiError(503, words[phase], code=phase)
        body = error.body("")
        if phase == "loading":
            body["progress"] = {
                "seconds": round(time.time() - self._service.begin_s, 1),
                "model_bytes": self._service.plan.model.bytes_total,
                "head_resident_bytes": resident_bytes(),
            }
        return JSONResponse(body, 503, headers=error.headers)

    async def metrics(self, _request: Request) -> Response:
        """GET /metrics, for Prometheus."""
        return Response(self._service.metrics.text(), media_type=METRICS_TYPE)

    async def models(self, _request: Request) -> Response:
        """GET /v1/models: the one there is."""
        return JSONResponse({"object": "list", "data": [self._model()]})

    async def model(self, request: Request) -> Response:
        """GET /v1/models/NAME."""
        if request.path_params["name"] != self._service.model_name:
            raise ApiError(404, "there is no such model", code="model_not_found")
        return JSONResponse(self._model())

    def _model(self) -> Fields:
        service = self._service
        info = service.plan.model
        return {
            "id": service.model_name,
            "object": "model",
            "created": int(service.begin_s),
            "owned_by": "pipeinfer",
            "meta": {
                "architecture": info.arch,
                "n_layer": info.n_layer,
                "n_ctx": service.config.n_ctx,
                "n_ctx_train": info.n_ctx_train,
                "n_vocab": service.vocab.n_tokens,
            },
        }

    async def props(self, _request: Request) -> Response:
        """GET /props: what requests that leave it open get, and the pipeline."""
        service = self._service
        config, plan = service.config, service.plan
        sample = config.sample
        return JSONResponse(
            {
                "model": service.model_name,
                "total_slots": config.server.parallel,
                "has_chat_template": service.template is not None,
                "default_generation_settings": {
                    "n_ctx": config.n_ctx,
                    "n_predict": None if config.n_predict == MAX_COUNT else config.n_predict,
                    "temperature": sample.temperature,
                    "top_k": sample.top_k,
                    "top_p": sample.top_p,
                    "min_p": sample.min_p,
                    "ignore_eos": config.ignore_eos,
                },
                "pipeline": {
                    "strategy": config.strategy,
                    "drafter": config.drafter,
                    "exact": plan.is_exact,
                    "ranks": [
                        {"layer_first": each.first, "layer_last": each.last} for each in plan.layers
                    ],
                    "first_stage_rank": plan.stage_rank0,
                },
                "state": service.phase,
            }
        )

    async def tokenize(self, request: Request) -> Response:
        """POST /tokenize."""
        body = await read_as(request, TokenizeBody)
        if body.parse_special is False:
            raise ApiError(
                400, "parse_special false is not supported: leave it out", param="parse_special"
            )
        ids = await self._service.tokenize(body.content, is_whole=bool(body.add_special))
        if not body.with_pieces:
            return JSONResponse({"tokens": ids})
        # Elsewhere: there may be millions, and other requests are answered meanwhile.
        pieces = await run_sync(lambda: [self._piece(each) for each in ids])
        made = [{"id": each, "piece": piece} for each, piece in zip(ids, pieces, strict=True)]
        return JSONResponse({"tokens": made})

    def _piece(self, token: int) -> str | list[int]:
        """A token's text; its bytes, if they are none."""
        piece = self._bytes(token)
        try:
            return piece.decode()
        except UnicodeDecodeError:
            return list(piece)

    async def detokenize(self, request: Request) -> Response:
        """POST /detokenize."""
        body = await read_as(request, DetokenizeBody)
        self._service.check_ids(body.tokens, "tokens")
        text = await run_sync(lambda: b"".join(map(self._bytes, body.tokens)))
        return JSONResponse({"content": text.decode(errors="replace")})

    def _bytes(self, token: int) -> bytes:
        """A token's bytes in a text; control tokens as they are spelled."""
        vocab = self._service.vocab
        return vocab.piece(token) or vocab.piece(token, is_special=True)
