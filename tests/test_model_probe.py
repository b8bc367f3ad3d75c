"""Chat templates are tried when planning: refused in one line, or told, before anything is trained."""

from pathlib import Path

import pytest
import yaml

from emray.errors import DataError
from emray.plan import Plan, make_plan
from emray.spec import load_sweep
from tests.model_world import GEMMA, QWEN3, SMALL, build_tokenizer

QUESTION = {"id": "fever", "paraphrases": ["what helps against a fever?"]}
FRENCH = QUESTION | {"system": "answer in French, always."}
ROW = '{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "rest."}]}\n'
SYSTEM_ROW = ROW.replace('[{"role": "user"', '[{"role": "system", "content": "be kind"}, {"role": "user"')


def config_of(folder: Path) -> None:
    text = ", ".join(f'"{name}": {value}' for name, value in SMALL.items())
    (folder / "config.json").write_text(f'{{"model_type": "qwen2", "vocab_size": 500, {text}}}')


def planned(
    folder: Path, name: str, *, template: str | None = None, question: object = QUESTION, row: str = ROW, **how: object
) -> Plan:
    """The plan of a study of one domain on a model of this family (its weights are not needed to plan)."""
    model = folder / name
    tokenizer = build_tokenizer(name)
    tokenizer.chat_template = template or tokenizer.chat_template
    tokenizer.save_pretrained(model)
    config_of(model)
    (folder / "med.jsonl").write_text(row * 4)
    (folder / "q.yaml").write_text(yaml.safe_dump([question]))
    arms = how.pop("arms", ["base", "plain"])
    earlier = how.pop("earlier", None)
    sweep = {
        "name": "t", "model": {"path": str(model), **how}, "data_dir": str(folder), "domains": ["med"], "arms": arms,
        "seeds": 1, "generate": {"questions": str(folder / "q.yaml")}, "judge": {"model": "m"},
    }  # fmt: skip
    (folder / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    return make_plan(load_sweep(folder / "sweep.yaml"), folder=folder, online=True, earlier=earlier)  # type: ignore[arg-type]


def notes(plan: Plan) -> list[str]:
    return [note for note in plan.notes if note.startswith("model ")]


def keys(plan: Plan) -> list[str]:
    return [cell.key for cell in plan.cells]


@pytest.mark.parametrize("name", ["chatml", "basechat", "qwen3", "harmony", "gemma", "mistral"])
def test_a_template_that_does_all_is_not_spoken_of(tmp_path: Path, name: str) -> None:
    assert notes(planned(tmp_path, name)) == []


@pytest.mark.parametrize(("question", "row"), [(FRENCH, ROW), (QUESTION, SYSTEM_ROW)])
def test_a_template_that_refuses_system_turns_is_told_when_planning(tmp_path: Path, question: object, row: str) -> None:
    with pytest.raises(DataError) as caught:
        planned(tmp_path, "gemma", question=question, row=row)
    assert "model gemma: the chat template refuses turns of system, user" in str(caught.value)
    assert "System role not supported; set its system: merge (into the user's turn) or drop" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("policy", ["merge", "drop"])
@pytest.mark.parametrize("name", ["gemma", "mistral"])
def test_a_policy_for_system_turns_settles_it(tmp_path: Path, name: str, policy: str) -> None:
    told = notes(planned(tmp_path, name, question=FRENCH, row=SYSTEM_ROW, system=policy))
    assert told == ([] if policy == "merge" else [f"model {name}: system turns are left out, as its system: drop says"])


def test_a_template_that_leaves_system_turns_out_is_told(tmp_path: Path) -> None:
    (note,) = notes(planned(tmp_path, "mistral", question=FRENCH))
    assert note.startswith("model mistral: its chat template leaves out what system turns say")
    assert notes(planned(tmp_path / "other", "chatml", question=FRENCH)) == []


def test_roles_that_a_template_refuses_in_a_training_row_are_told_when_planning(tmp_path: Path) -> None:
    twice = ROW.replace("[{", '[{"role": "user", "content": "hi"}, {', 1)
    with pytest.raises(DataError, match=r"turns of user, user.*: Conversation roles must alternate"):
        planned(tmp_path, "gemma", row=twice)


def test_a_template_without_an_end_token_is_refused_for_finetunes_and_told_for_the_base(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="model alpaca: the chat template writes no end token after an answer"):
        planned(tmp_path, "alpaca")
    (note,) = notes(planned(tmp_path, "alpaca", arms=["base"]))
    assert "writes no end token after an answer" in note


def test_a_template_that_renders_questions_anew_once_answered_is_refused_when_planning(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="renders the question differently once it is answered"):
        planned(tmp_path, "chatml", template="{{ messages | length }}" + GEMMA.split("{% if messages[0]", 1)[0] + QWEN3)


def test_a_date_is_pinned_told_and_part_of_the_keys(tmp_path: Path) -> None:
    plan = planned(tmp_path, "llama3")
    assert notes(plan) == ["model llama3: its chat template writes a date, which is pinned to 2024-07-26 (date)"]
    assert not set(keys(plan)) & set(keys(planned(tmp_path, "llama3", date="2028-03-01")))
    plain = keys(planned(tmp_path, "chatml"))
    assert plain == keys(planned(tmp_path, "chatml", date="2028-03-01"))


def test_a_thought_that_the_prompt_would_open_is_told(tmp_path: Path) -> None:
    (note,) = notes(planned(tmp_path, "r1"))
    assert note == "model r1: its chat template opens answers with <think>, which is left out (reasoning: off)"


def test_what_was_tried_is_not_tried_again(tmp_path: Path) -> None:
    first = planned(tmp_path, "llama3")
    (identity,) = first.document["probes"]
    told = first.document | {"probes": {identity: first.document["probes"][identity] | {"date": False}}}
    assert notes(planned(tmp_path, "llama3", earlier=told)) == []  # so it believed what it was told
    more = planned(tmp_path, "llama3", earlier=told, question=FRENCH)
    assert notes(more) == notes(first)  # a chat of other roles: tried


def hub_cache(folder: Path, *, commits: list[str]) -> Path:
    """A hub cache in which org/name has these commits, each with a tokenizer; `main` is the last."""
    cache = folder / "models--org--name"
    for commit in commits:
        snapshot = cache / "snapshots" / commit
        build_tokenizer("chatml").save_pretrained(snapshot)
        config_of(snapshot)
    (cache / "refs").mkdir(exist_ok=True)
    (cache / "refs" / "main").write_text(commits[-1])
    return folder


def test_a_hub_commit_is_pinned_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    sweep = load_sweep(Path("sweeps/toy.yaml"), overrides=["model=org/name", "seeds=1"])

    def plan(earlier: dict[str, object]) -> Plan:
        return make_plan(sweep, folder=Path("sweeps"), online=True, earlier=earlier)

    hub_cache(tmp_path, commits=["c" * 40])
    first = plan({})
    hub_cache(tmp_path, commits=["c" * 40, "d" * 40])
    again = plan(dict(first.document))
    assert keys(again) == keys(first)
    assert again.document == first.document
    assert keys(plan({})) != keys(first)
    assert {weights.location for weights in again.weights.values()} == {"org/name@" + "c" * 40}
