"""What outlives a stage: Ray, the hardware declared, and the judges that a sweep serves itself.

Not for what runs on them. The invariant: each starts when first needed and ends with the command.
"""

import math
import secrets
from contextlib import ExitStack
from functools import cached_property

from emray.cluster import Hardware, check_shared, connected, declare
from emray.model.facts import num_parameters
from emray.model.weights import hosted_name, split_location
from emray.plan import Plan
from emray.records import Answerer
from emray.spec import TOY
from emray.stages.logbook import Logbook
from emray.store import Store


class Services:
    """Started on demand, one of each."""

    def __init__(self, resources: ExitStack, *, logbook: Logbook, store: Store, address: str | None) -> None:
        self.logbook = logbook
        self._resources = resources
        self._store, self._address = store, address
        self._ray_runs = False
        self._vllm_judge: str | None = None
        self._hardware: Hardware | None = None

    @property
    def here(self) -> bool:
        """Whether this machine alone does the work."""
        return self._address is None

    def start_ray(self) -> None:
        """Connect to Ray, once. Raises SpecError when a node of the cluster does not see the run folder."""
        if not self._ray_runs:
            self._resources.enter_context(connected(self._address))
            if self._address:
                check_shared(self._store)
            self._ray_runs = True

    def hardware(self, plan: Plan) -> Hardware:
        """What the command computes on, declared when the first work comes that needs it. Raises SpecError."""
        if self._hardware is None:
            self.start_ray()
            self._hardware = declare(plan.sweep.resources, parameters=most_parameters(plan))
        return self._hardware

    def judge_url(self, plan: Plan) -> str | None:
        """Base URL of the sweep's judge; None: as openai users set it."""
        judge = plan.sweep.judge
        if judge.engine == "vllm":
            return self.vllm_judge(plan)
        return self.toy_judge if judge.base_url == TOY else judge.base_url

    @cached_property
    def toy_judge(self) -> str:
        """Base URL of the local judge, which answers to this command alone."""
        from emray.endpoint.access import introduce
        from emray.localapi import serving

        key = secrets.token_urlsafe(32)
        server = self._resources.enter_context(serving(responder="emray.toy.responder:reply", api_key=key))
        introduce(server.base_url, key=key)
        return server.base_url

    def vllm_judge(self, plan: Plan) -> str:
        """Base URL of the judge that the sweep serves itself."""
        if self._vllm_judge is None:
            hardware, sweep = self.hardware(plan), plan.sweep
            from emray.endpoint.vllm_server import serving_model

            server = serving_model(sweep.judge.model, resources=sweep.resources, hardware=hardware)
            self._vllm_judge = self._resources.enter_context(server)
        return self._vllm_judge


def most_parameters(plan: Plan) -> float:
    """Of the largest model that the sweep loads itself; NaN where one does not say its size."""
    bases = {weights.location for weights in plan.weights.values() if weights.answerer == Answerer.BASE}
    trained = {job.model_path for job in plan.jobs.values()}
    places = {place for place in bases | trained if not hosted_name(place)}
    if plan.sweep.judge.engine == "vllm":
        places.add(plan.sweep.judge.model)
    sizes = [num_parameters(split_location(place)[0]) for place in places]
    return math.nan if any(map(math.isnan, sizes)) else max(sizes, default=0.0)
