"""An OpenAI-compatible server on loopback: chat completions, files, batches and finetuning jobs, honest limits,
seeded faults.

It stands in for a judge endpoint: the toy sweep, the tests and the benchmarks talk to it over real HTTP, so nothing
between the client and the wire is pretended. Not for serving a model (that is `vllm serve`) and not for a network:
it has no TLS and listens on loopback only. The invariant: what it admits never exceeds the limits it states, and
`/stats` counts every request it saw.

    python -m emray.localapi --responder emray.toy.rules:reply --rpm 6000
"""

from emray.localapi.config import BatchRules, Faults, FinetuningRules, ServerConfig
from emray.localapi.process import LocalServer, serving

__all__ = ["BatchRules", "Faults", "FinetuningRules", "LocalServer", "ServerConfig", "serving"]
