"""The HTTP side: OpenAI's routes, chat completions and their faults, and the server's own statistics.

Not for deciding limits (limits.py), counting (stats.py), files (uploads.py), batches (batch_desk.py) or finetunes
(finetuning_desk.py). The invariant: a request is charged against the limits once, when it is admitted, with the tokens
its `usage` will report.
"""

import asyncio
import json
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from email.utils import formatdate
from functools import partial
from typing import Any

from aiohttp import web

from emray.localapi.batch_desk import BatchDesk
from emray.localapi.chance import Chances, draws
from emray.localapi.completions import (
    BadRequest,
    ChatCall,
    body_digest,
    completion_json,
    error_json,
    parse_json,
)
from emray.localapi.config import ServerConfig, load_function, load_responder
from emray.localapi.finetuning_desk import FinetuningDesk
from emray.localapi.guard import guard, key_of_request
from emray.localapi.limits import Account, Admission, make_limit
from emray.localapi.manners import MANNERS, Heard, Said, azure, router
from emray.localapi.reset import reset_connection
from emray.localapi.served_models import ServedModels, Tuner
from emray.localapi.stats import Stats
from emray.localapi.uploads import FOR_FINETUNES, PURPOSE, FileShelf

__all__ = ["LocalApi", "body_digest"]

_LEAST_BURST_TOKENS = 4096.0  # so that one ordinary request fits a small tokens-per-minute limit
_UNCHARGED_FAULTS = ("error_500", "error_503", "reset")  # nothing was completed, so no tokens are charged
_MAX_BODY_BYTES = 256 * 2**20
_NORMAL = statistics.NormalDist()


class LocalApi:
    """One server: its accounts, its statistics and its handlers."""

    def __init__(self, config: ServerConfig, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.config = config
        self.clock = clock
        self.stats = Stats(clock())
        tuner: Tuner | None = load_function(config.tuner, what="tuner")() if config.tuner else None
        self.served_models = ServedModels(config, responder=load_responder(config.responder), tuner=tuner)
        self.files = _shelf(config)
        self.batches = BatchDesk(
            config,
            files=self.files,
            models=self.served_models,
            stats=lambda: self.stats,
            clock=clock,
        )
        self.finetunes = tuner and FinetuningDesk(
            config, files=self.files, tuner=tuner, models=self.served_models, stats=lambda: self.stats
        )
        self.accounts: dict[tuple[str, str], Account] = defaultdict(self._new_account)
        self.faults = Chances(asdict(config.faults))
        self.served_in_manners: Counter[str] = Counter()

    def application(self) -> web.Application:
        app = web.Application(
            client_max_size=_MAX_BODY_BYTES, middlewares=[guard(self.config.api_key, refused=self._refused)]
        )
        app.router.add_post("/v1/chat/completions", self.chat_completions)
        app.router.add_post("/{manner}/v1/chat/completions", self.in_a_manner)
        app.router.add_post("/openai/deployments/{deployment}/chat/completions", self.in_a_manner)
        app.router.add_post("/api/v1/chat/completions", self.in_a_manner)
        app.router.add_get("/v1/models", self.models)
        if self.config.batch.max_requests:
            self._add_batch_routes(app)
        if self.config.batch.max_requests or self.finetunes:
            self._add_file_routes(app)
        if self.finetunes:
            self._add_finetuning_routes(app, self.finetunes)
        app.router.add_get("/stats", self.get_stats)
        app.router.add_get("/stats/bodies", self.get_bodies)
        app.router.add_get("/stats/arrivals", self.get_arrivals)
        app.router.add_post("/stats/reset", self.reset_stats)
        return app

    def _add_file_routes(self, app: web.Application) -> None:
        files = self.files
        for method, path, handler in (
            ("POST", "/v1/files", files.upload),
            ("GET", "/v1/files", files.listing),
            ("GET", "/v1/files/{id}", files.retrieve),
            ("GET", "/v1/files/{id}/content", files.content),
            ("DELETE", "/v1/files/{id}", files.delete),
        ):
            app.router.add_route(method, path, self._for_account(handler))

    def _add_batch_routes(self, app: web.Application) -> None:
        batches = self.batches
        for method, path, handler in (
            ("POST", "/v1/batches", batches.create),
            ("GET", "/v1/batches", batches.listing),
            ("GET", "/v1/batches/{id}", batches.retrieve),
            ("POST", "/v1/batches/{id}/cancel", batches.cancel),
        ):
            app.router.add_route(method, path, self._for_account(handler))
        app.on_cleanup.append(batches.close)

    def _add_finetuning_routes(self, app: web.Application, jobs: FinetuningDesk) -> None:
        for method, path, handler in (
            ("POST", "", jobs.create),
            ("GET", "", jobs.listing),
            ("GET", "/{id}", jobs.retrieve),
            ("POST", "/{id}/cancel", jobs.cancel),
            ("GET", "/{id}/events", jobs.events),
            ("GET", "/{id}/checkpoints", jobs.checkpoints),
        ):
            app.router.add_route(method, f"/v1/fine_tuning/jobs{path}", self._for_account(handler))
        app.on_cleanup.append(jobs.close)

    def _for_account(
        self, handler: Callable[[web.Request, str], Awaitable[web.Response]]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        """A handler that gets the caller's key, and whose refusals become OpenAI's error bodies."""

        async def guarded(request: web.Request) -> web.Response:
            try:
                return await handler(request, key_of_request(request))
            except BadRequest as error:
                return web.json_response(error.json(), status=error.status)

        return guarded

    async def chat_completions(self, request: web.Request) -> web.StreamResponse:
        """One completion, or the fault drawn for it."""
        started_s = self.clock()
        try:
            api_key = key_of_request(request)
            call = await self.served_models.understand(parse_json(await request.read()), api_key=api_key)
        except BadRequest as error:
            self.stats.by_status[str(error.status)] += 1
            return web.json_response(error.json(), status=error.status)
        repetition = self.stats.arrived(call.digest, now_s=started_s, api_key=api_key)
        outcome = "cancelled"
        try:
            response, outcome = await self._admit_and_answer(request, call, repetition, started_s)
            return response
        finally:
            self.stats.left(outcome)

    async def in_a_manner(self, request: web.Request) -> web.StreamResponse:
        """One completion as another provider would answer it (manners.py), without limits or faults."""
        started_s = self.clock()
        try:
            body = {"model": request.match_info.get("deployment"), **parse_json(await request.read())}
            call = await self.served_models.understand(body, api_key=key_of_request(request))
            said = self._said(request, call)
        except BadRequest as error:
            self.stats.by_status[str(error.status)] += 1
            return web.json_response(error.json(), status=error.status)
        self.stats.left(str(said.status))
        if said.status == 200:
            self.served_in_manners[request.path] += 1
            counts = {"prompt_tokens": call.prompt_tokens, "completion_tokens": call.completion_tokens}
            latency_s = self.clock() - started_s
            self.stats.answered(call.digest, api_key=call.api_key, latency_s=latency_s, **counts)
        text = said.body if isinstance(said.body, str) else json.dumps(said.body)
        return web.Response(
            body=text.encode(), status=said.status, headers={"content-type": "application/json", **said.headers}
        )

    def _said(self, request: web.Request, call: ChatCall) -> Said:
        """What the manner at this path makes of a call. Raises BadRequest for one that is not known."""
        before = self.stats.arrived(call.digest, now_s=self.clock(), api_key=call.api_key)
        heard = Heard(call, before, self.served_in_manners[request.path])
        name = request.match_info.get("manner")
        if name in (None, "openai"):
            if request.path.startswith("/api/"):
                return router(heard)
            return azure(heard, headers=request.headers, query=request.query, versioned=name is None)
        if name not in MANNERS:
            raise BadRequest(f"no manner {name!r}; there are {', '.join(MANNERS)}", status=404)
        return MANNERS[name](heard)

    async def models(self, request: web.Request) -> web.Response:
        names = self.served_models.names(api_key=key_of_request(request))
        told = {"shutdown_date": self.config.shutdown_date} if self.config.shutdown_date else {}
        rows = [{"id": name, "object": "model", "created": 0, "owned_by": "emray"} | told for name in names]
        return web.json_response({"object": "list", "data": rows})

    async def get_stats(self, request: web.Request) -> web.Response:
        return web.json_response(self.stats.summary())

    async def get_bodies(self, request: web.Request) -> web.Response:
        return web.json_response(self.stats.bodies())

    async def get_arrivals(self, request: web.Request) -> web.Response:
        return web.json_response(self.stats.arrivals())

    async def reset_stats(self, request: web.Request) -> web.Response:
        """Start the counts and the limits anew, as if the server had just started."""
        under_way, self.stats = self.stats.in_flight, Stats(self.clock())
        self.stats.in_flight = under_way
        self.accounts.clear()
        return web.json_response({})

    # One call, step by step ----------------------------------------------------------------------------------

    def _refused(self, request: web.Request, status: int) -> None:
        """Completions that the guard turned away are counted as those that are turned away here."""
        if request.path.endswith("/chat/completions"):
            self.stats.by_status[str(status)] += 1

    async def _admit_and_answer(
        self, request: web.Request, call: ChatCall, repetition: int, started_s: float
    ) -> tuple[web.StreamResponse, str]:
        """The response and the name it is counted under."""
        fault, delay_s = self._draw(call.digest, repetition)
        charged = 0 if fault in _UNCHARGED_FAULTS else call.num_tokens
        account = self.accounts[(call.api_key, call.body["model"])]
        admission = account.admit(charged, now_s=started_s)
        self.stats.judged(charged, now_s=started_s, admitted=admission.admitted)
        headers = account.headers(now_s=started_s)
        if not admission.admitted:
            return self._turned_away(admission, headers), "429"
        if fault is not None:
            self.stats.by_fault[fault] += 1
        if delay_s > 0:
            await asyncio.sleep(delay_s)
        if fault is not None:
            return await self._fail(request, fault, call, headers), fault
        response = _json(completion_json(call, digits=self.config.digits), headers)
        self.stats.answered(
            call.digest,
            api_key=call.api_key,
            prompt_tokens=call.prompt_tokens,
            completion_tokens=call.completion_tokens,
            latency_s=self.clock() - started_s,
        )
        return response, "200"

    def _draw(self, digest: str, repetition: int) -> tuple[str | None, float]:
        """Fault and delay of one call."""
        fault_draw, delay_draw = draws(self.config.seed, digest, repetition)
        fault = self.faults.pick(fault_draw)
        delay_s = self.config.latency_ms / 1000
        if self.config.latency_sigma and delay_s:
            delay_s *= 2.718281828459045 ** (self.config.latency_sigma * _NORMAL.inv_cdf(delay_draw))
        return fault, delay_s

    def _turned_away(self, admission: Admission, headers: dict[str, str]) -> web.Response:
        if admission.oversized is not None:
            message = f"Request too large: it needs more {admission.oversized} than the limit ever holds."
            return _error(429, message, admission.oversized, "rate_limit_exceeded", headers)
        forms = {
            "seconds": {"retry-after": str(max(1, -int(-admission.wait_s // 1)))},
            "ms": {"retry-after-ms": str(max(1, round(admission.wait_s * 1000)))},
            "date": {"retry-after": formatdate(time.time() + max(1.0, admission.wait_s), usegmt=True)},
            "none": {},
        }
        form = self.config.retry_after
        headers |= forms["seconds"] | forms["ms"] if form == "both" else forms[form]
        message = f"Rate limit reached. Please try again in {admission.wait_s:.3f}s."
        return _error(429, message, "requests", "rate_limit_exceeded", headers)

    async def _fail(
        self, request: web.Request, fault: str, call: ChatCall, headers: dict[str, str]
    ) -> web.StreamResponse:
        """The response of a fault; a hang ends when the client goes away."""
        if fault == "error_500":
            return _error(500, "The server had an error.", "server_error", None, headers)
        if fault == "error_503":
            return web.Response(status=503, text="upstream connect error", headers=headers)
        if fault == "schema":
            return _json({"id": "x", "object": "chat.completion", "result": call.text}, headers)
        if fault == "refusal":
            return _json(completion_json(call, refused=True), headers)
        if fault == "malformed":
            text = json.dumps(completion_json(call))[:-20] + '"}'
            return web.Response(text=text, content_type="application/json", headers=headers)
        if fault == "hang":
            await asyncio.Event().wait()
        if fault == "truncated":
            return await _half_a_body(request, json.dumps(completion_json(call)).encode())
        reset_connection(request)
        return web.Response(status=500)

    def _new_account(self) -> Account:
        new_limit = partial(make_limit, window=self.config.window, window_s=self.config.window_s)
        return Account(
            new_limit(self.config.rpm, burst=self.config.burst_requests, least_burst=1.0),
            new_limit(self.config.tpm, burst=self.config.burst_tokens, least_burst=_LEAST_BURST_TOKENS),
        )


def _shelf(config: ServerConfig) -> FileShelf:
    purposes = ([PURPOSE] if config.batch.max_requests else []) + ([FOR_FINETUNES] if config.tuner else [])
    batch = config.batch
    return FileShelf(max_bytes=batch.max_bytes, max_total_bytes=batch.max_total_bytes, purposes=purposes)


def _json(body: Any, headers: Mapping[str, str]) -> web.Response:
    return web.Response(body=json.dumps(body).encode(), content_type="application/json", headers=dict(headers))


def _error(
    status: int, message: str, kind: str, code: str | None, headers: Mapping[str, str] | None = None
) -> web.Response:
    return web.json_response(error_json(message, kind, code), status=status, headers=dict(headers or {}))


async def _half_a_body(request: web.Request, content: bytes) -> web.StreamResponse:
    """Promise the whole body, send half of it, close."""
    response = web.StreamResponse(headers={"Content-Length": str(len(content)), "Content-Type": "application/json"})
    await response.prepare(request)
    await response.write(content[: len(content) // 2])
    if request.transport is not None:
        request.transport.close()
    return response
