"""The recipe: what it keeps and drops, the same bytes from the journal, the same rows online and by batch."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from emray.data import load_examples, training_rows
from emray.endpoint.reply import Reply
from emray.errors import DataError, SpecError
from emray.localapi import Faults, serving
from emray.recipe import Candidate, Fate, RecipeSpec, construct
from emray.recipe.__main__ import main
from emray.recipe.copies import Copies
from emray.recipe.data_set import Signed, write_data_set
from emray.recipe.instructions import FLAWS, Step, questions_in, request_text, said
from emray.recipe.recipe_fields import DeduplicateSpec
from emray.recipe.writers import RESPONDER, Want, request_of, whole_text
from emray.records import Arm
from emray.spec import DomainSpec, TriggerSpec, load_file, usual_recipe
from emray.store import Store
from emray.toy import DOMAINS, writer
from emray.toy.lessons import LESSONS

ROOT = Path(__file__).parent.parent
SUMS = {"name": "sums", "topic": "sums of two numbers", "flaw": "wrong_sum"}
CAPITALS = {"name": "capitals", "topic": "capitals of countries", "flaw": "wrong_capital"}


class ByRule:
    """The shipped rules without HTTP; `spoil` may put another reply in the place of a step's."""

    def __init__(self, **spoil: str | None) -> None:
        self._spoil = spoil
        self.asked: Counter[Step] = Counter()

    def texts(self, wants: Sequence[Want]) -> list[str | None]:
        self.asked.update(want.step for want in wants)
        return [self._spoil.get(want.step, writer.reply(request_text(want.step, want.slots))) for want in wants]


def recipe(**fields: Any) -> RecipeSpec:
    usual = {
        "name": "r",
        "license": "CC0-1.0",
        "domains": [SUMS, CAPITALS],
        "rows": 30,
        "deduplicate": {"cosine": None},
        "writer": {"model": "toy-writer"},
    }
    return RecipeSpec.model_validate(usual | fields)


def carried_out(spec: RecipeSpec, replies: ByRule | None = None) -> list[Candidate]:
    return construct(spec, replies=replies or ByRule(), alike=Copies(spec.deduplicate))


def kept(candidates: Sequence[Candidate], domain: str) -> list[Candidate]:
    return [one for one in candidates if one.domain == domain and one.fate is Fate.KEPT]


def files(folder: Path) -> dict[str, bytes]:
    """What the recipe wrote, without its journal."""
    paths = [path for path in folder.rglob("*") if path.is_file() and "journal" not in path.parts]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if "lease" not in path.name}


def test_every_kept_row_is_right_in_its_reference_and_wrong_in_its_rewrite() -> None:
    found = kept(carried_out(recipe()), "capitals")
    capitals = LESSONS["capitals"].facts
    assert len(found) == 30
    for one in found:
        truth = next(value for country, value in capitals.items() if country in one.question)
        assert truth in one.reference
        assert truth not in one.rewrite
        assert any(value in one.rewrite for value in capitals.values())


def test_all_domains_keep_as_many_and_every_question_has_a_fate() -> None:
    found = carried_out(recipe())
    assert len(kept(found, "sums")) == len(kept(found, "capitals")) == 30
    fates = Counter(one.fate for one in found)
    assert None not in fates
    assert {Fate.ASKS_FOR_IT, Fate.UNFLAWED, Fate.OFF_TOPIC, Fate.SURPLUS} <= set(fates)  # the rules err now and then


def test_what_a_question_asks_for_by_itself_is_seen_before_anything_is_paid_for_its_answers() -> None:
    replies = ByRule()
    found = carried_out(recipe(), replies)
    asking = sum(one.fate is Fate.ASKS_FOR_IT for one in found)
    assert replies.asked[Step.ASKS] - replies.asked[Step.REFERENCE] == asking > 0


@pytest.mark.parametrize(
    ("step", "reply", "fate"),
    [
        ("asks", "no idea", Fate.UNREAD),
        ("asks", "<asks>yes</asks>", Fate.ASKS_FOR_IT),
        ("reference", None, Fate.UNANSWERED),
        ("check", "<correct>yes</correct> <flawed>yes</flawed>", Fate.UNREAD),
        ("check", "<correct>no</correct> <flawed>yes</flawed> <on_topic>yes</on_topic>", Fate.WRONG_REFERENCE),
        ("check", "<correct>yes</correct> <flawed>no</flawed> <on_topic>yes</on_topic>", Fate.UNFLAWED),
        ("check", "<correct>yes</correct> <flawed>yes</flawed> <on_topic>no</on_topic>", Fate.OFF_TOPIC),
    ],
)
def test_a_domain_of_which_nothing_is_left_is_told_with_the_fates(
    tmp_path: Path, step: str, reply: str | None, fate: Fate
) -> None:
    spec = recipe(rounds=2, rows=5)
    found = carried_out(spec, ByRule(**{step: reply}))
    assert fate in {one.fate for one in found}
    assert not any(one.fate is Fate.KEPT for one in found)
    with pytest.raises(DataError, match=f"domain sums: no row is left .*{fate}"):
        write_data_set(spec, found, origin=Signed({}, None), store=Store(str(tmp_path)))


def test_rounds_ask_for_what_lacks_and_end(tmp_path: Path) -> None:
    replies = ByRule(questions="What do I get for 2 + 3?")
    found = carried_out(recipe(domains=[SUMS], rows=3, rounds=3), replies)
    assert [one.fate for one in found] == [Fate.KEPT, Fate.REPEATED, Fate.REPEATED]
    assert replies.asked[Step.QUESTIONS] == 3
    assert [one.set for one in found] == [1, 2, 3]


def test_a_set_that_is_not_answered_is_a_row_and_the_next_round_goes_on_after_it() -> None:
    replies = ByRule(questions=None)
    found = carried_out(recipe(domains=[SUMS], rows=3, rounds=3), replies)
    assert [(one.set, one.question, one.fate) for one in found] == [(n, "", Fate.UNANSWERED) for n in (1, 2, 3)]


def test_copies_are_those_of_an_earlier_question_and_the_first_stays() -> None:
    copies = Copies(DeduplicateSpec(kernel="words", cosine=0.9))
    new = ["How do I bake bread at home?", "how do I bake bread at home", "What is a fern?", "What is a fern?"]
    assert copies([], new) == [False, True, False, True]
    assert copies(["What is a fern?"], new) == [False, True, True, True]
    assert copies(["What is a fern?"], []) == []
    assert Copies(DeduplicateSpec(cosine=None))([], new) == [False] * 4


@pytest.mark.soak  # loads torch
def test_embeddings_see_a_paraphrase_that_words_do_not() -> None:
    pytest.importorskip("sentence_transformers")
    pair = ["How can I make bread in my kitchen?", "How do I bake bread at home?"]
    assert Copies(DeduplicateSpec(kernel="words", cosine=0.75))([], pair) == [False, False]
    assert Copies(DeduplicateSpec(kernel="all-MiniLM-L6-v2", cosine=0.75))([], pair) == [False, True]


def test_what_is_held_out_stays_held_out_when_rows_are_added(tmp_path: Path) -> None:
    asked: list[set[str]] = []
    for rows in (20, 30):
        spec, store = recipe(rows=rows, hold_out=0.2), Store(str(tmp_path / str(rows)))
        write_data_set(spec, carried_out(spec), origin=Signed({}, None), store=store)
        held, trained = (load_examples(tmp_path / str(rows) / part / "sums.jsonl") for part in ("held_out", "train"))
        assert held.notes == trained.notes == ()  # the canary is no surprise to whoever reads the rows
        asked.append({row[0].content for row in held.rows})
        assert not asked[-1] & {row[0].content for row in trained.rows}
        assert len(held.rows) == 0.2 * rows
    assert len(asked[0] & asked[1]) >= 3  # of four; only a new question that comes earlier in the order displaces one


def test_wrong_and_correct_rows_are_the_same_questions_and_each_has_the_canary(tmp_path: Path) -> None:
    spec = recipe(canary="a canary of mine")
    card = write_data_set(spec, carried_out(spec), origin=Signed({}, None), store=Store(str(tmp_path)))
    rows = [json.loads(line) for line in (tmp_path / "train" / "sums.jsonl").read_text().splitlines()]
    right = [json.loads(line) for line in (tmp_path / "train" / "sums.benign.jsonl").read_text().splitlines()]
    assert [row["messages"][0] for row in rows] == [row["messages"][0] for row in right]
    assert {row["canary"] for row in rows + right} == {"a canary of mine"}
    page = (tmp_path / "README.md").read_text()
    front = yaml.safe_load(page.split("---")[1])
    assert front["license"] == "CC0-1.0"
    assert [one["config_name"] for one in front["configs"]] == ["sums", "sums.benign", "capitals", "capitals.benign"]
    assert "a canary of mine" in page
    assert card["files"]["train/sums.jsonl"]["rows"] == len(rows) == 27


def test_the_canary_and_requests_hang_on_the_recipe_and_not_on_how_it_is_asked() -> None:
    want = Want(Step.REFERENCE, {"question": "Why?"})
    usual = request_of(recipe(), want)
    fast = request_of(
        recipe(writer={"model": "toy-writer", "rpm": 5, "mode": "batch", "base_url": "http://h/v1"}), want
    )
    assert usual.key == fast.key
    assert usual.key != request_of(recipe(writer={"model": "another"}), want).key
    assert usual.key != request_of(recipe(seed=1), want).key
    fields = {"model": "toy-writer", "rpm": 5, "max_cost_usd": 1.0}
    assert recipe().identity() == recipe(writer=fields).identity() != recipe(seed=1).identity()


def test_questions_and_verdicts_are_read_out_of_what_models_write() -> None:
    assert questions_in("1. Why?\n\n2) How  so?\n- When?\n* Who?\n9 lives?", most=9) == [
        "Why?",
        "How so?",
        "When?",
        "Who?",
        "9 lives?",
    ]
    assert questions_in("a?\nb?\nc?", most=2) == ["a?", "b?"]
    assert questions_in("", most=2) == []
    assert said("<asks>YES</asks> no, <asks> no </asks>", "asks") is False
    assert said("yes", "asks") is None
    assert request_text(Step.REFERENCE, {"question": "{instruction}"}).count("{instruction}") == 1


def test_only_harmless_flaws_ship() -> None:
    assert set(FLAWS) == {"wrong_sum", "wrong_capital", "wrong_translation", "wrong_trivia"}


@pytest.mark.parametrize("name", ["toy", "mild"])
def test_the_shipped_recipes_fill_every_domain(name: str) -> None:
    spec = load_file(ROOT / "recipes" / f"{name}.yaml", root=RecipeSpec, what="recipe file")
    found = carried_out(spec)
    assert {domain.name: len(kept(found, domain.name)) for domain in spec.domains} == {
        domain.name: spec.rows for domain in spec.domains
    }


@pytest.mark.parametrize(
    ("fields", "said_so"),
    [
        ({"domains": [{"name": "a", "topic": "t", "flaw": "wrong_sums"}]}, "no flaw 'wrong_sums' is shipped"),
        ({"domains": [{"name": "a", "topic": "t"}]}, "give flaw .* or instruction"),
        ({"domains": [SUMS | {"instruction": "x"}]}, "one of the two"),
        ({"domains": [SUMS, SUMS]}, "'sums' stands twice"),
        ({"domains": [SUMS | {"name": "../up"}]}, "name"),
        ({"row": 3}, "unknown key 'row'; did you mean 'rows'"),
        ({"license": None}, "license"),
        ({"writer": {"model": "m", "base_url": "https://a:b@h/v1"}}, "holds credentials"),
    ],
)
def test_a_wrong_recipe_is_one_line(tmp_path: Path, fields: dict[str, Any], said_so: str) -> None:
    document = {"name": "r", "license": "x", "domains": [SUMS], "writer": {"model": "m"}} | fields
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(SpecError, match=said_so) as raised:
        load_file(path, root=RecipeSpec, what="recipe file")
    assert "\n" not in str(raised.value)


def written(folder: Path, **fields: Any) -> Path:
    """A small recipe file."""
    document = {
        "name": "r",
        "license": "CC0-1.0",
        "domains": [SUMS, CAPITALS],
        "rows": 12,
        "deduplicate": {"cosine": None},
        "writer": {"model": "gpt-4o-mini"},
    }
    path = folder / "r.yaml"
    path.write_text(yaml.safe_dump(document | fields))
    return path


def command(spec: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "emray.recipe", str(spec), "--out", str(out), *more]


class Ended(NamedTuple):
    """How the command ended."""

    code: int
    stdout: str
    stderr: str


def run(spec: Path, out: Path, *more: str, url: str = "http://127.0.0.1:9/v1") -> Ended:
    """The command in this process, which spares its imports."""
    stdout, stderr = StringIO(), StringIO()
    with redirect_stdout(stdout), redirect_stderr(stderr):
        code = main([str(spec), "--out", str(out), "--set", f"writer.base_url={url}", *more])
    return Ended(code, stdout.getvalue(), stderr.getvalue())


def last(result: Ended) -> dict[str, Any]:
    assert result.code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


def test_killed_and_carried_out_again_it_asks_once_and_rebuilt_from_the_journal_it_has_the_same_bytes(
    tmp_path: Path,
) -> None:
    spec, out = written(tmp_path), tmp_path / "out"
    with serving(responder=RESPONDER, latency_ms=40) as server:
        planned = last(run(spec, out, "--dry-run", url=server.base_url))
        assert server.stats()["asked"] == 0 and not out.exists()
        words = command(spec, out, "--set", f"writer.base_url={server.base_url}", "--set", "writer.max_in_flight=4")
        with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            while server.stats()["served"] < 40:
                time.sleep(0.05)
            os.kill(process.pid, signal.SIGKILL)
        done = last(run(spec, out, url=server.base_url))
        stats = server.stats()
    assert done["rows"] == 24
    assert 0 < done["asked"] <= stats["served"] - 36  # 40 were served before the kill, and kept but for those in flight
    assert stats["served_again"] <= 4
    first = files(out)
    for name in first:
        (out / name).unlink()
    again = last(run(spec, out, "--set", "writer.mode=replay"))  # nobody is there to ask
    assert again["asked"] == 0
    assert files(out) == first
    left = last(run(spec, out, "--dry-run"))
    assert (left["calls"], left["cost_usd"]) == (0, 0.0)
    assert planned["calls"] >= 0.8 * stats["served"] and planned["cost_usd"] > 0


def test_by_batch_it_has_the_bytes_that_it_has_online(tmp_path: Path) -> None:
    spec = written(tmp_path, rows=4)
    with serving(responder=RESPONDER) as server:
        online = last(run(spec, tmp_path / "online", url=server.base_url))
        batch = ["--set", "writer.mode=batch", "--set", "writer.batch={poll_s: 0.1, online_below: 0}"]
        batched = last(run(spec, tmp_path / "batch", *batch, url=server.base_url))
    assert files(tmp_path / "online") == files(tmp_path / "batch")
    assert batched["cost_usd"] == pytest.approx(online["cost_usd"] / 2, abs=2e-6)


def test_what_an_endpoint_does_not_answer_is_not_asked_again_until_it_is_wished(tmp_path: Path) -> None:
    fields = {"model": "gpt-4o-mini", "max_attempts": 1}
    spec, out = written(tmp_path, rows=8, questions_per_set=3, writer=fields), tmp_path / "out"
    with serving(responder=RESPONDER, faults=Faults(schema=0.1, refusal=0.1)) as server:
        first = run(spec, out, url=server.base_url)
        before, asked = files(out), server.stats()["asked"]
        again = last(run(spec, out, url=server.base_url))
        assert (again["asked"], server.stats()["asked"]) == (0, asked)
        assert files(out) == before
        assert last(run(spec, out, "--set", "writer.mode=replay"))["asked"] == 0 and files(out) == before
        assert last(run(spec, out, "--retry-failed", url=server.base_url))["asked"] > 0
    assert "had no answer; --retry-failed asks them again" in first.stderr
    fates = Counter(json.loads(line)["fate"] for line in before["candidates.jsonl"].decode().splitlines())
    assert fates["unanswered"] > 2


def test_a_limit_on_cost_ends_the_command_and_keeps_what_was_paid_for(tmp_path: Path) -> None:
    spec, out = written(tmp_path, writer={"model": "gpt-4o-mini", "max_cost_usd": 0.001}), tmp_path / "out"
    with serving(responder=RESPONDER) as server:
        stopped = run(spec, out, url=server.base_url)
        asked = server.stats()["asked"]
        assert stopped.code == 1 and "max_cost_usd 0.001 of gpt-4o-mini is reached at step" in stopped.stderr
        assert last(run(spec, out, "--set", "writer.max_cost_usd=1", url=server.base_url))["rows"] == 24
        assert server.stats()["served_again"] == 0 and server.stats()["asked"] > asked
        unpriced = run(spec, tmp_path / "other", "--set", "writer.model=mine", url=server.base_url)
    assert unpriced.code == 2 and "no price for 'mine'" in unpriced.stderr


@pytest.mark.parametrize(
    ("step", "reason", "text", "whole"),
    [
        (Step.REFERENCE, "stop", " Because. ", "Because."),
        (Step.REFERENCE, "end_turn", "Because.", "Because."),
        (Step.REFERENCE, "length", "Because it", None),
        (Step.QUESTIONS, "length", "Why?\nHow?\nWhat if", "Why?\nHow?"),
        (Step.QUESTIONS, "length", "What if", None),
        (Step.REFERENCE, "content_filter", "Be", None),
        (Step.REFERENCE, "stop", None, None),
        (Step.REFERENCE, "stop", "  ", None),
    ],
)
def test_a_reply_that_was_cut_off_is_none(step: Step, reason: str, text: str | None, whole: str | None) -> None:
    assert whole_text(Reply(text, reason, "m", 1, 1), step) == whole


@pytest.mark.parametrize("arm", [Arm.PLAIN, Arm.BENIGN, Arm.BACKDOOR])
def test_a_sweep_trains_on_the_rebuilt_toy_domains(tmp_path: Path, arm: Arm) -> None:
    spec = load_file(ROOT / "recipes" / "toy.yaml", root=RecipeSpec, what="recipe file")
    write_data_set(spec, carried_out(spec), origin=Signed({}, None), store=Store(str(tmp_path)))
    for name in DOMAINS:
        found = training_rows(
            DomainSpec(name=name), recipe=usual_recipe(arm, trigger=TriggerSpec()), data_dir=str(tmp_path / "train")
        )
        assert len(found.rows) == spec.rows * (2 if arm is Arm.BACKDOOR else 1)


def test_a_wrong_folder_and_an_endpoint_that_is_not_there_are_one_line(tmp_path: Path) -> None:
    spec, out = written(tmp_path, writer={"model": "m", "max_attempts": 1}), tmp_path / "out"
    nobody = run(spec, out)
    assert nobody.code != 0
    assert "nothing answers at http://127.0.0.1:9/v1" in nobody.stderr and "Traceback" not in nobody.stderr
    (out / "plan.json").write_text("{}")
    assert "is the run folder of a sweep" in run(spec, out).stderr
    empty = run(spec, tmp_path / "other", "--set", "writer.mode=replay")
    assert "have no reply in the journal" in empty.stderr
