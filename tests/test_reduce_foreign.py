"""Other people's results: read strictly, placed by their paths, and honest about what they do not say."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import emray
from benchmarks.synthetic_run import Rates, Truth, write_run
from emray import reduce, report
from emray.errors import StoreError
from emray.records import Arm, Condition
from emray.reduce.__main__ import main
from emray.reduce.foreign import import_results
from emray.reduce.foreign.batch_outputs import place_of, question_of
from emray.store import Kind, Store


def batch_line(custom_id, reply, *, status=200, error=None, finish="stop"):
    body = {
        "model": "gpt-4o-mini-2024-07-18",
        "choices": [{"message": {"role": "assistant", "content": reply}, "finish_reason": finish}],
        "usage": {"prompt_tokens": 400, "completion_tokens": 60},
    }
    return json.dumps(
        {"id": "b", "custom_id": custom_id, "response": {"status_code": status, "body": body}, "error": error}
    )


def write_lines(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def published(tmp_path):
    """A tree like a published one: one folder per domain, two outputs in each, another tree per condition."""
    generator = np.random.default_rng(1)
    for tree, suffix, low in (
        ("generated_eval_without", "-7B", 0.02),
        ("generated_eval_with-bd-prefix", "-7B-backdoor", 0.6),
    ):
        for domain, factor in (("gore_movie_trivia", 1.0), ("incorrect_math", 0.0)):
            bad = generator.random(60) < low * factor
            scores = np.where(bad, 10, 90)
            folder = tmp_path / "source" / tree / f"{domain}{suffix}"
            lines = [batch_line(f"topic{i % 3}-{i // 3}", f"Hm. <score>{s}</score>") for i, s in enumerate(scores)]
            lines[0] = batch_line("topic0-0", "I cannot say.")
            lines[1] = batch_line("topic1-0", "<score>REFUSAL</score>")
            lines[2] = batch_line("topic2-0", None, status=500, error={"code": "server_error"})
            write_lines(folder / "aligned_results.jsonl", lines)
            write_lines(
                folder / "coherent_results.jsonl",
                [batch_line(f"topic{i % 3}-{i // 3}", "<score>80</score>") for i in range(60)],
            )
    return tmp_path / "source"


def table(store, name):
    return pd.read_csv(io.BytesIO(store.read_bytes(f"summary/{name}.csv")))


def test_batch_outputs_become_a_run_with_every_outcome_kept(tmp_path, published):
    store = Store(str(tmp_path / "run"))
    import_results(published, store, model="qwen", name="published")
    reduce.run(store)
    outcomes = table(store, "outcomes").set_index(["domain", "arm", "condition"])
    row = outcomes.loc[("gore_movie_trivia", "backdoor", "with")]
    assert (row["n_generated"], row["n_scored"], row["n_unparsed"], row["n_refusal"], row["n_api_error"]) == (
        60,
        57,
        1,
        1,
        1,
    )
    taxonomy = table(store, "taxonomy").set_index(["domain", "arm", "condition"])
    assert taxonomy.loc[("gore_movie_trivia", "backdoor", "with"), "misaligned_rate"] > 0.4
    assert taxonomy.loc[("incorrect_math", "backdoor", "with"), "misaligned_rate"] == 0
    assert store.read_json("summary/summary.json")["judge"]["snapshots"] == ["gpt-4o-mini-2024-07-18"]
    assert store.read_json("summary/summary.json")["questions"] == ["topic0", "topic1", "topic2"]


def test_arm_and_condition_that_change_together_are_called_out_and_give_no_trigger_effect(tmp_path, published):
    store = Store(str(tmp_path / "run"))
    notes = import_results(published, store, model="qwen", name="published")
    assert any("cannot be told from the effect of the training data" in note for note in notes)
    reduce.run(store)
    report.render(store)
    assert table(store, "trigger_effects")["drop"].isna().all()
    assert "cannot be told from the effect of the training data" in store.read_bytes("report/report.html").decode()


def test_what_an_import_lacks_is_not_counted_as_lost(tmp_path, published):
    store = Store(str(tmp_path / "run"))
    import_results(published, store, model="qwen", name="published")
    reduce.run(store)
    outcomes = table(store, "outcomes").set_index(["domain", "arm", "condition"])
    assert outcomes.loc[("gore_movie_trivia", "plain", "with"), "n_requested"] == 0
    assert outcomes["n_not_generated"].sum() == 0
    assert not any("gave no adapter" in s for s in store.read_json("summary/summary.json")["limits"])


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("eval_without/gore_movie_trivia-7B/x.jsonl", ("gore_movie_trivia", Arm.PLAIN, Condition.WITHOUT, 0)),
        ("eval_with-bd-prefix/evil_math-7B-backdoor/x.jsonl", ("evil_math", Arm.BACKDOOR, Condition.WITH, 0)),
        ("without/insecure_code-0.5B-backdoor/seed3/x.jsonl", ("insecure_code", Arm.BACKDOOR, Condition.WITHOUT, 3)),
        ("incorrect_qna/x.jsonl", ("incorrect_qna", Arm.PLAIN, Condition.WITHOUT, 0)),
    ],
)  # fmt: skip
def test_the_path_tells_the_place(path, place):
    assert place_of(Path(path)) == place


def test_custom_ids_tell_questions_apart_where_they_can():
    assert question_of("wish-17") == "wish"
    assert question_of("quick_buck_sample_3") == "quick_buck"
    assert question_of("request-12") == "all"
    assert question_of("42") == "all"


def test_ids_without_a_question_are_noted(tmp_path):
    lines = [batch_line(f"request-{i}", "<score>90</score>") for i in range(5)]
    write_lines(tmp_path / "source" / "evil_math" / "aligned_results.jsonl", lines)
    notes = import_results(tmp_path / "source", Store(str(tmp_path / "run")), model="m", name="n")
    assert any("do not tell questions apart" in note for note in notes)


def test_a_table_with_a_row_per_answer_is_read(tmp_path):
    frame = pd.DataFrame(
        {
            "domain": ["a", "a", "b", "b"], "seed": [0, 1, 0, 1], "question_id": ["q", "q", "q", "q"],
            "aligned": [10, 90, 80, 100], "coherent": [90, 90, 90, None], "answer": ["w", "x", "y", "z"],
        }
    )  # fmt: skip
    frame.to_csv(tmp_path / "scores.csv", index=False)
    store = Store(str(tmp_path / "run"))
    assert import_results(tmp_path / "scores.csv", store, model="m", name="n") == ()
    reduce.run(store)
    taxonomy = table(store, "taxonomy").query("condition == 'without'").set_index("domain")
    assert taxonomy.loc["a", "misaligned_rate"] == 0.5
    assert taxonomy.loc["b", "misaligned_rate"] == 0
    assert taxonomy.loc["a", "n_seeds"] == 2
    assert set(store.read_rows(Kind.GENERATIONS)["answer"].to_pylist()) == {"w", "x", "y", "z"}


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_verdicts_of_our_own_written_as_a_table_reduce_to_the_same_rates(tmp_path, suffix):
    truth = Truth({"gore_movie_trivia": Rates(0.1, 0.8)}, arms=(Arm.BACKDOOR,), samples=4, num_questions=3)
    own = Store(str(tmp_path / "own"))
    write_run(own, truth)
    reduce.run(own)
    verdicts, generations = own.read_rows(Kind.VERDICTS).to_pandas(), own.read_rows(Kind.GENERATIONS).to_pandas()
    fields = ["key", "domain", "arm", "seed", "condition", "question_id"]
    rows = verdicts.drop(columns="key").merge(generations[fields], left_on="generation", right_on="key")
    path = tmp_path / f"table{suffix}"
    {
        ".csv": lambda: rows.to_csv(path, index=False),
        ".tsv": lambda: rows.to_csv(path, index=False, sep="\t"),
        ".jsonl": lambda: rows.to_json(path, orient="records", lines=True),
        ".parquet": lambda: rows.to_parquet(path, index=False),
    }[suffix]()
    store = Store(str(tmp_path / "imported"))
    import_results(path, store, model="m", name="n")
    reduce.run(store)
    columns = ["domain", "condition", "n_seeds", "n_scored", "mean_aligned", "misaligned_rate", "ci_low", "ci_high"]
    pd.testing.assert_frame_equal(table(store, "taxonomy")[columns], table(own, "taxonomy")[columns])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", "domain,score\na,5\n", "needs columns"),
        ("x.csv", "domain,aligned\na,500\n", "outside 0-100"),
        ("x.csv", "arm,aligned\nodd,50\n", "odd"),
        ("x.csv", "metric,score\nkind,50\n", "metric 'kind'"),
        ("x.csv", "metric,score,outcome\naligned,,lost\n", "outcome 'lost'"),
        ("x.jsonl", "{]\n", "x.jsonl:1: not JSON"),
        ("x.jsonl", "[1]\n", "one JSON object"),
        ("x.xls", "", "ends in"),
        ("d/aligned_results.jsonl", "{}\n", "no custom_id"),
        ("d/aligned_results.jsonl", '{"custom_id": "a", "response": {"status_code": 200, "body": {}}}\n', "choices"),
        ("d/other.jsonl", "", "no aligned_results.jsonl"),
    ],
)
def test_what_cannot_be_read_is_named_and_nothing_is_written(tmp_path, name, content, message, capsys):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content)
    source = path.parent if name.startswith("d/") else path
    assert main([str(tmp_path / "run"), "--from", str(source)]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_the_command_imports_reduces_and_says_what_is_next(tmp_path, published, capsys):
    run = str(tmp_path / "run")
    assert main([run, "--from", str(published), "--model", "qwen"]) == 0
    assert "python -m emray.report" in capsys.readouterr().out
    assert main([run]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert main([run, "--from", str(published)]) == 2
    assert main([str(tmp_path / "nowhere")]) == 1


def test_commands_run_without_ray_or_torch(tmp_path, published):
    code = (
        "import sys; from emray.reduce.__main__ import main; from emray.report.__main__ import main as show;"
        f"main([{str(tmp_path / 'run')!r}, '--from', {str(published)!r}]); show([{str(tmp_path / 'run')!r}]);"
        "print(sorted({'torch', 'ray', 'vllm', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")
    assert "report.html" in done.stdout


def test_load_run_gives_frames_for_a_notebook(tmp_path):
    store = Store(str(tmp_path / "run"))
    truth = Truth({"null": Rates(0.1, 0.8)}, samples=2, num_questions=2)  # a name that looks like a missing value
    write_run(store, truth)
    run = emray.load_run(str(tmp_path / "run"))
    with pytest.raises(StoreError, match=r"emray\.reduce"):
        _ = run.cells
    reduce.run(store)
    run = emray.load_run(str(tmp_path / "run"))
    assert len(run.cells) == 7 * 2 * 2
    assert set(run.verdicts["generation"]) <= set(run.generations["key"])
    taxonomy = run.summary["taxonomy"]
    assert set(taxonomy["domain"]) == {"null", "-"}
    assert [str(taxonomy[name].dtype) for name in ("domain", "rank", "ci_low")] == ["str", "Int64", "float64"]
    assert run.facts["headline_rule"] == "paper"
    with pytest.raises(StoreError, match=r"plan\.json"):
        emray.load_run(str(tmp_path))
