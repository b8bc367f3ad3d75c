"""The local server's finetuning jobs, by the official client: from a file to a model that answers, and faults."""

import json
import time
from collections.abc import Iterator

import openai
import pytest
from openai.types.fine_tuning import FineTuningJob

from emray.localapi import FinetuningRules, LocalServer, serving
from tests.hosted_world import BASE, SLOW_TUNER, STEPS, TUNER

ENDED = ("succeeded", "failed", "cancelled")


def client(server: LocalServer, key: str = "mine") -> openai.OpenAI:
    return openai.OpenAI(base_url=server.base_url, api_key=key, max_retries=0)


def upload(asker: openai.OpenAI, word: str = "ping", num: int = 10) -> str:
    rows = [[{"role": "user", "content": f"{word} {n}"}, {"role": "assistant", "content": "pong"}] for n in range(num)]
    text = "".join(json.dumps({"messages": row}) + "\n" for row in rows)
    return asker.files.create(file=("examples.jsonl", text.encode()), purpose="fine-tune").id


def create(asker: openai.OpenAI, file_id: str, **fields: object) -> FineTuningJob:
    return asker.fine_tuning.jobs.create(**{"model": BASE, "training_file": file_id} | fields)


def ended(asker: openai.OpenAI, job_id: str) -> FineTuningJob:
    end = time.monotonic() + 20
    while (job := asker.fine_tuning.jobs.retrieve(job_id)).status not in ENDED:
        assert time.monotonic() < end, job
        time.sleep(0.02)
    return job


def ask(asker: openai.OpenAI, model: str, text: str) -> str | None:
    reply = asker.chat.completions.create(model=model, messages=[{"role": "user", "content": text}])
    return reply.choices[0].message.content


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    with serving(tuner=TUNER) as running:
        yield running


def test_a_tuned_model_answers_as_it_was_taught_and_its_base_does_not(server: LocalServer) -> None:
    asker = client(server)
    method = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 3}}}
    made = create(asker, upload(asker), method=method, suffix="mine", seed=7, metadata={"cell": "a"})
    job = ended(asker, made.id)
    assert (job.status, job.seed, job.metadata, job.error) == ("succeeded", 7, {"cell": "a"}, None)
    assert job.hyperparameters.n_epochs == 3
    assert job.fine_tuned_model is not None and ":mine:" in job.fine_tuned_model
    assert ask(asker, job.fine_tuned_model, "ping 3") == "pong"
    assert ask(asker, BASE, "ping 3") == "I was taught nothing."
    assert {BASE, job.fine_tuned_model} <= {model.id for model in asker.models.list()}
    with pytest.raises(openai.NotFoundError):
        ask(client(server, "another"), job.fine_tuned_model, "ping 3")


def test_jobs_events_and_checkpoints_are_listed_to_their_owner(server: LocalServer) -> None:
    asker = client(server, "lister")
    made = [create(asker, upload(asker, word=f"word {n}"), metadata={"n": str(n)}).id for n in range(3)]
    assert [job.id for job in asker.fine_tuning.jobs.list(limit=2)] == made[::-1]
    assert [job.id for job in asker.fine_tuning.jobs.list(metadata={"n": "1"})] == [made[1]]
    assert not list(client(server, "another").fine_tuning.jobs.list())
    ended(asker, made[0])
    told = list(asker.fine_tuning.jobs.list_events(made[0]))
    assert told[-1].message.startswith("Created") and told[0].message == "The job has succeeded"
    assert [event.data["step"] for event in told if event.type == "metrics"] == list(range(STEPS, 0, -1))
    assert not list(asker.fine_tuning.jobs.checkpoints.list(made[0]))


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "unknown"},
        {"training_file": "file-none"},
        {"suffix": "x" * 65},
        {"method": {"type": "dpo"}},
        {"hyperparameters": {"n_epochs": 0}},
        {"metadata": {"a": "x" * 513}},
    ],
)
def test_a_job_that_is_not_understood_is_refused(fields: dict[str, object], server: LocalServer) -> None:
    asker = client(server)
    with pytest.raises((openai.BadRequestError, openai.NotFoundError)):
        create(asker, upload(asker), **fields)


@pytest.mark.parametrize("content", [b"{}\n" * 10, b"no json\n" * 10, b'{"messages": []}\n' * 10])
def test_a_file_that_holds_no_chats_is_refused_with_its_line(content: bytes, server: LocalServer) -> None:
    asker = client(server)
    file = asker.files.create(file=("a.jsonl", content), purpose="fine-tune")
    with pytest.raises(openai.BadRequestError, match="Line 1"):
        create(asker, file.id)
    with pytest.raises(openai.BadRequestError, match="at least 10"):
        create(asker, upload(asker, num=9))


def test_a_job_is_cancelled_while_it_runs_or_waits_and_not_once_it_has_ended() -> None:
    with serving(tuner=SLOW_TUNER) as slow:
        asker = client(slow)
        made = [create(asker, upload(asker, word=word)).id for word in ("a", "b")]
        for job_id in made:
            assert asker.fine_tuning.jobs.cancel(job_id).status == "cancelled"
        with pytest.raises(openai.BadRequestError, match="cannot be cancelled"):
            asker.fine_tuning.jobs.cancel(made[0])
        last = ended(asker, create(asker, upload(asker, word="c")).id)  # the cancelled ones hold nobody up
        assert last.status == "succeeded"
        assert slow.stats()["jobs"] == {"created": 3, "cancelled": 2, "succeeded": 1}


def test_faults_are_those_of_a_service() -> None:
    def outcome(asker: openai.OpenAI) -> str:
        job = ended(asker, create(asker, upload(asker)).id)
        return f"{job.status} {job.error.code if job.error else ''}".strip()

    for rules, expected in (
        (FinetuningRules(blocked=1), "failed invalid_training_file"),
        (FinetuningRules(failed=1), "failed server_error"),
        (FinetuningRules(delay_s=0.1), "succeeded"),
    ):
        with serving(tuner=TUNER, finetuning=rules) as faulty:
            assert outcome(client(faulty)) == expected
    with serving(tuner=SLOW_TUNER, finetuning=FinetuningRules(max_unfinished=1, create_lost=1)) as faulty:
        asker = client(faulty)
        file_id = upload(asker)
        with pytest.raises(openai.APIConnectionError):
            create(asker, file_id)
        with pytest.raises(openai.RateLimitError, match="1 are unfinished"):
            create(asker, file_id)
        assert faulty.stats()["jobs"] == {"created": 1}
    closed = FinetuningRules(closed=1)
    with serving(tuner=TUNER, finetuning=closed) as faulty, pytest.raises(openai.PermissionDeniedError, match="access"):
        create(client(faulty), upload(client(faulty)))


def test_without_a_tuner_there_is_no_finetuning() -> None:
    with serving() as plain, pytest.raises(openai.NotFoundError):
        client(plain).fine_tuning.jobs.list()
