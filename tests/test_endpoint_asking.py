"""One seam: whatever the transport, equal requests get equal answers in their order, and are paid for once."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from emray.endpoint.asking import Asking, Endpoint, Terms
from emray.endpoint.batch.transport import BatchAsking
from emray.endpoint.journal import read_journal
from emray.endpoint.kept import Replay
from emray.endpoint.ports import LocalPort, RateLimits
from emray.endpoint.reply import Answer, Request
from emray.endpoint.worker import Worker
from emray.errors import StageError
from emray.localapi import LocalServer, serving
from emray.spec import BatchSpec, EndpointSpec
from emray.store import Store

MODEL = "gpt-4o-mini"
SPEC = EndpointSpec(batch=BatchSpec(poll_s=0.05, online_below=0, max_requests=4))


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    with serving() as running:
        yield running


def request(number: int, model: str = MODEL) -> Request:
    body = {"model": model, "messages": [{"role": "user", "content": f"about {number}"}], "max_tokens": 20}
    return Request(f"{number:020x}", body)


def online(store: Store, server: LocalServer) -> Worker:
    limits = RateLimits(None, None, 16)
    return Worker(Endpoint.at(server.base_url, spec=SPEC, model=MODEL), store=store, port=lambda: LocalPort(limits))


def by_batch(store: Store, server: LocalServer) -> BatchAsking:
    endpoint = Endpoint.at(server.base_url, spec=SPEC, model=MODEL)
    return BatchAsking(endpoint, store=store, online=lambda terms: online(store, server), terms=Terms())


def texts(asking: Asking, requests: Sequence[Request]) -> list[str | None]:
    answers: Sequence[Answer] = asking.answers(requests)
    return [answer.replies[0].text for answer in answers]


def test_transports_agree_and_follow_one_another_without_paying_again(tmp_path: Path, server: LocalServer) -> None:
    server.reset()
    requests = [request(number % 7) for number in range(10)]
    with closing(online(Store(str(tmp_path / "online")), server)) as asking:
        expected = texts(asking, requests)
    store = Store(str(tmp_path / "batch"))
    with closing(by_batch(store, server)) as asking:
        assert texts(asking, requests[:5]) == expected[:5]
        assert texts(asking, requests) == expected
    assert texts(Replay(store), requests) == expected
    stats = server.stats()
    assert (stats["asked"], stats["lines_served"]) == (14, 7)
    assert len(dict(read_journal(store, wanted={one.key for one in requests}))) == 7


def test_a_batch_is_for_one_model_however_the_requests_come(tmp_path: Path, server: LocalServer) -> None:
    server.reset()
    requests = [request(10 + number, model=f"gpt-4o-{'mini' if number % 2 else 'nano'}") for number in range(6)]
    with closing(by_batch(Store(str(tmp_path)), server)) as asking:
        assert all(texts(asking, requests))
    assert server.stats()["batches"] == {"created": 2, "completed": 2}


def test_a_replay_without_a_reply_asks_nobody_and_says_how_many(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="2 of the requests have no reply in the journal"):
        Replay(Store(str(tmp_path))).answers([request(1), request(2), request(1)])
