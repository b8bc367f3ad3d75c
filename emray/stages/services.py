"""What outlives a stage: Ray and the judges that a sweep serves itself.

Not for what runs on them. The invariant: each starts when first needed and ends with the command.
"""

from contextlib import ExitStack
from functools import cached_property

from emray.cluster import check_shared, connected
from emray.spec import TOY, Sweep
from emray.store import Store


class Services:
    """Started on demand, one of each."""

    def __init__(self, resources: ExitStack, *, store: Store, address: str | None) -> None:
        self._resources = resources
        self._store, self._address = store, address
        self._ray_runs = False
        self._vllm_judge: str | None = None

    def start_ray(self) -> None:
        """Connect to Ray, once. Raises SpecError when a node of the cluster does not see the run folder."""
        if not self._ray_runs:
            self._resources.enter_context(connected(self._address))
            if self._address:
                check_shared(self._store)
            self._ray_runs = True

    def judge_url(self, sweep: Sweep) -> str | None:
        """Base URL of the sweep's judge; None: as openai users set it."""
        if sweep.judge.engine == "vllm":
            return self.vllm_judge(sweep)
        return self.toy_judge if sweep.judge.base_url == TOY else sweep.judge.base_url

    @cached_property
    def toy_judge(self) -> str:
        """Base URL of the local judge."""
        from emray.localapi import serving

        return self._resources.enter_context(serving(responder="emray.toy.rules:reply")).base_url

    def vllm_judge(self, sweep: Sweep) -> str:
        """Base URL of the judge that the sweep serves itself."""
        if self._vllm_judge is None:
            self.start_ray()
            from emray.endpoint.vllm_server import serving_model

            server = serving_model(sweep.judge.model, resources=sweep.resources)
            self._vllm_judge = self._resources.enter_context(server)
        return self._vllm_judge
