"""The local server as a child process, for the sweep, the tests and the benchmarks.

Not for in-process use: a server in the client's own event loop would share its core and hide its stalls. The
invariant: when the `with` block ends, or this process dies, the server is gone.
"""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from emray.errors import StageError
from emray.localapi.config import KEY_VARIABLE, ServerConfig

READY_PREFIX = "emray.localapi ready at "
_STOP_TIMEOUT_S = 10.0
_DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy serves loopback


@dataclass(frozen=True)
class LocalServer:
    """A running server: where it is and what it has seen."""

    url: str
    pid: int
    api_key: str | None = field(default=None, repr=False)

    @property
    def base_url(self) -> str:
        """What an openai client takes as `base_url`."""
        return f"{self.url}/v1"

    def stats(self) -> dict[str, Any]:
        """Counts since the start: asked, served, rejected, served_again, by_status, tokens, latencies."""
        return self._call("/stats")

    def bodies(self) -> dict[str, list[int]]:
        """[asked, served] per request body."""
        return self._call("/stats/bodies")

    def arrivals(self) -> dict[str, Any]:
        """Arrivals over time in bins."""
        return self._call("/stats/arrivals")

    def reset(self) -> None:
        """Start counts and limits anew."""
        self._call("/stats/reset", method="POST")

    def _call(self, path: str, method: str = "GET") -> Any:
        headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        request = urllib.request.Request(self.url + path, method=method, headers=headers)
        with _DIRECTLY.open(request, timeout=30) as response:
            return json.load(response)


@contextmanager
def serving(config: ServerConfig | None = None, **settings: Any) -> Iterator[LocalServer]:
    """Run the server as a subprocess for the length of the block.

    Give a `ServerConfig` or its fields: `with serving(responder="score", rpm=6000) as server: ...`.
    Raises UserError for a wrong setting, StageError when the server does not come up.
    """
    config = config or ServerConfig(**settings)
    command = [sys.executable, "-m", "emray.localapi", *config.flags(), "--exit-with-parent", str(os.getpid())]
    environment = os.environ | ({KEY_VARIABLE: config.api_key} if config.api_key else {})
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith(READY_PREFIX):
            raise StageError(f"the local server did not start (exit code {process.wait(_STOP_TIMEOUT_S)})")
        yield LocalServer(line.removeprefix(READY_PREFIX).strip(), process.pid, config.api_key)
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
