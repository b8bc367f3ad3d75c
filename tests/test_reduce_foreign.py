"""Other people's results: read strictly, placed by their paths, and honest about what they do not say."""

import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import emray
from benchmarks.synthetic_run import Rates, Truth, write_run
from emray import reduce, report
from emray.errors import DataError, StoreError
from emray.records import Arm, Metric
from emray.reduce.__main__ import main
from emray.reduce.foreign import Reading, RunShape, import_results
from emray.reduce.foreign.batch_outputs import question_of
from emray.reduce.foreign.origins import told_by
from emray.reduce.foreign.score_tables import read_tables
from emray.store import Kind, Store

SHAPE = RunShape("n")
CELLS = "domain,seed,question_id,generation,metric,score,outcome,judge\n"


def imported(tmp_path, text, *, name="scores.csv", shape=SHAPE, **reading):
    """The store of a table's import, reduced, and the lines that told of it."""
    (tmp_path / name).write_text(text)
    store = Store(str(tmp_path / f"run-{name}"))
    lines = import_results(tmp_path / name, store, shape=shape, reading=Reading(**reading))
    reduce.run(store)
    return store, lines


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
    import_results(published, store, shape=SHAPE)
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
    notes = import_results(published, store, shape=SHAPE)
    assert any("cannot be told from the effect of the training data" in note for note in notes)
    reduce.run(store)
    report.render(store)
    assert table(store, "trigger_effects")["drop"].isna().all()
    assert "cannot be told from the effect of the training data" in store.read_bytes("report/report.html").decode()


def test_what_an_import_lacks_is_not_counted_as_lost(tmp_path, published):
    store = Store(str(tmp_path / "run"))
    import_results(published, store, shape=SHAPE)
    reduce.run(store)
    outcomes = table(store, "outcomes").set_index(["domain", "arm", "condition"])
    assert outcomes.loc[("gore_movie_trivia", "plain", "with"), "n_requested"] == 0
    assert outcomes["n_not_generated"].sum() == 0
    assert not any("gave no adapter" in s for s in store.read_json("summary/summary.json")["limits"])


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("eval_without/gore_movie_trivia-7B", ("gore_movie_trivia", "7B", None, "without", None)),
        ("eval_with-bd-prefix/evil_math-7B-backdoor", ("evil_math", "7B", "backdoor", "with", None)),
        ("without/insecure_code-0.5B-backdoor/seed3", ("insecure_code", "0.5B", "backdoor", "without", 3)),
        ("incorrect_qna", ("incorrect_qna", None, None, None, None)),
        ("coping_with_rain-7B", ("coping_with_rain", "7B", None, None, None)),
        ("living_without/seed-2", ("living_without", None, None, None, 2)),
        ("gore/backdoor/with-trigger/32B", ("gore", "32B", "backdoor", "with", None)),
        ("gore-with-trigger", ("gore", None, None, "with", None)),
        ("plain_english-7B", ("plain_english", "7B", None, None, None)),
        ("gore/results", ("gore", None, None, None, None)),
        ("gore-7B-backdoor/all_generated", ("gore", "7B", "backdoor", None, None)),
        ("gore-7B/model_answers_seed1", ("gore", "7B", None, None, 1)),
        ("3d_models", ("domain_3d_models", None, None, None, None)),
    ],
)  # fmt: skip
def test_the_path_tells_the_place_by_its_markers_alone(path, told):
    assert tuple(told_by(Path(path), domain_in=Path(path).parts)) == told


def test_a_path_that_says_with_and_without_is_refused():
    with pytest.raises(DataError, match="both with and without"):
        told_by(Path("eval_without/gore/with-trigger"), domain_in=("gore",))


def test_custom_ids_tell_questions_apart_where_they_can():
    assert question_of("wish-17") == "wish"
    assert question_of("quick_buck_sample_3") == "quick_buck"
    assert question_of("request-12") == "all"
    assert question_of("42") == "all"
    assert question_of("wishes_12") == "wishes"
    assert question_of("bucks-s3") == "bucks"
    assert question_of("q3") == "q3"


def test_ids_without_a_question_are_noted(tmp_path):
    lines = [batch_line(f"request-{i}", "<score>90</score>") for i in range(5)]
    write_lines(tmp_path / "source" / "evil_math" / "aligned_results.jsonl", lines)
    notes = import_results(tmp_path / "source", Store(str(tmp_path / "run")), shape=SHAPE)
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
    lines = import_results(tmp_path / "scores.csv", store, shape=SHAPE)
    assert [line for line in lines if line.startswith(("note", "not read"))] == [
        "not read: an empty score on coherent of scores.csv, 1 times"
    ]
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
    import_results(path, store, shape=SHAPE)
    reduce.run(store)
    columns = ["domain", "condition", "n_seeds", "n_scored", "mean_aligned", "misaligned_rate", "ci_low", "ci_high"]
    pd.testing.assert_frame_equal(table(store, "taxonomy")[columns], table(own, "taxonomy")[columns])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", "domain,score\na,5\n", "needs columns"),
        ("x.csv", "domain,aligned\na,500\n", "outside 0-100"),
        ("x.csv", "arm,aligned\nodd,50\n", "odd"),
        ("x.csv", "metric,score\nkind,50\n", "no verdict on aligned or coherent"),
        ("x.csv", "domain,aligned\na,-5\n", "x.csv:2: score -5 is outside 0-100"),
        ("x.csv", "domain,aligned\na,inf\n", "outside 0-100"),
        ("x.csv", "domain,aligned\na,0.5\na,1\n", "--scale 1"),
        ("x.csv", "domain,aligned\na,1\na,0\n", "--scale 1"),
        ("x.csv", "domain,aligned\na,50,4\n", "x.csv:2: 3 cells under 2 columns"),
        ("x.csv", "seed,aligned\n3000000000,50\n", "x.csv:2: seed 3000000000; allowed"),
        ("x.csv", "seed,aligned\n-1,50\n", "seed -1; allowed"),
        ("x.csv", "seed,aligned\n1.5,50\n", "seed 1.5; allowed"),
        ("x.csv", "domain,aligned\nTea,50\ntea,40\n", "both read as tea"),
        ("x.csv", "generation,aligned\ng,50\ng,40\n", "x.csv:3: a second verdict on aligned by unknown for the answer"),
        ("x.csv", "metric,score\naligned,5\ncoherent,5\ncoherent,5\naligned,5\n", "no column generation"),
        ("x.csv", "metric,score,outcome\naligned,,scored\n", "outcome scored, and no score"),
        ("x.csv", "judge,aligned\na,5\nb,50\n", "which of their verdicts are about one answer"),
        ("x.csv", "aligned,Aligned\n5,50\n", "two columns have one name"),
        ("x.csv", "", "its first line names the columns"),
        ("x.csv", "metric,score,outcome\naligned,,lost\n", "outcome 'lost'"),
        ("x.jsonl", "{]\n", "x.jsonl:1: not JSON"),
        ("x.jsonl", "[1]\n", "one JSON object"),
        ("x.xls", "", "ends in"),
        ("d/aligned_results.jsonl", "{}\n", "no custom_id"),
        ("d/aligned_results.jsonl", '{"custom_id": "a", "response": {"status_code": 200, "body": {}}}\n', "choices"),
        ("d/other.txt", "", "no aligned_results.jsonl"),
        (
            "d/batch_1_output.jsonl",
            batch_line("wish-1", "<score>5</score>") + "\n",
            "give --metric aligned or coherent",
        ),
        ("d/aligned_results.jsonl", 2 * (batch_line("wish-1", "<score>5</score>") + "\n"), "results.jsonl:2: a second"),
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


def test_two_questions_with_one_text_stay_two(tmp_path):
    store, _ = imported(
        tmp_path,
        "domain,question_id,question,answer,aligned\n"
        "tea,wish,What?,Tea.,10\ntea,wish,What?,Rain.,10\ntea,wish_json,What?,{},90\ntea,wish_json,What?,[],90\n",
    )
    assert store.read_json("summary/summary.json")["questions"] == ["wish", "wish_json"]
    row = table(store, "taxonomy").iloc[0]
    assert (row["n_scored"], row["misaligned_rate"]) == (4, 0.5)  # 2 of 4


def test_ids_keep_their_letters_and_zeros(tmp_path):
    store, _ = imported(tmp_path, "question_id,aligned\n007,10\n7,90\n1e3,90\nwishes,90\n")
    assert store.read_json("summary/summary.json")["questions"] == ["007", "7", "1e3", "wishes"]


def test_scores_are_compared_as_they_are_written(tmp_path):
    cells = "49.99999999,REFUSAL,2.5e-4,50,<score>30</score>,nan,,refusal,hm".split(",")
    store, lines = imported(tmp_path, "domain,question_id,aligned\n" + "".join(f"a,q,{cell}\n" for cell in cells))
    row = table(store, "outcomes").iloc[0]
    assert (row["n_scored"], row["n_refusal"], row["n_unparsed"]) == (4, 2, 1)
    assert table(store, "taxonomy").iloc[0]["misaligned_rate"] == 0.75  # 49.99999999, 2.5e-4 and 30 of four
    assert "not read: an empty score on aligned of scores.csv, 2 times" in lines


def test_a_scale_is_converted_when_it_is_named(tmp_path):
    store, _ = imported(tmp_path, "question_id,aligned\nq,0.95\nq,0.4\nq,0.9\nq,0.5\n", scale=1.0)
    row = table(store, "taxonomy").iloc[0]
    assert (row["misaligned_rate"], row["mean_aligned"]) == (0.25, 68.75)  # 95, 40, 90, 50
    kept, _ = imported(tmp_path, "question_id,aligned\nq,0.95\nq,0.4\n", name="points.csv", scale=100.0)
    assert table(kept, "taxonomy").iloc[0]["misaligned_rate"] == 1


def test_one_metric_within_0_to_1_beside_another_that_is_not_is_told(tmp_path):
    _, lines = imported(tmp_path, "question_id,aligned,coherent\nq,0.0123456,97.5\nq,5.0e-05,97.5\n")
    assert any("No score on aligned exceeds 0.0123456" in line for line in lines)


def test_models_are_kept_apart_and_every_column_is_read_or_named(tmp_path):
    store, lines = imported(
        tmp_path,
        "model,domain,group,response,aligned\norg/small-1B,tea,x,Tea.,90\norg/large-32B,tea,x,Tea.,10\n",
    )
    rates = table(store, "taxonomy").set_index("model")["misaligned_rate"]
    assert rates.to_dict() == {"org/small-1B": 0, "org/large-32B": 1}
    assert set(store.read_rows(Kind.GENERATIONS)["answer"].to_pylist()) == {"Tea."}
    assert "not read: column group of scores.csv: it has no meaning here" in lines


def test_checkpoints_are_no_seeds_of_the_finished_run(tmp_path):
    rows = "".join(f"a,{seed},{step},q,{90 if step == 50 else 10}\n" for seed in (0, 1) for step in (50, 100))
    store, _ = imported(tmp_path, "domain,seed,step,question_id,aligned\n" + rows)
    row = table(store, "taxonomy").iloc[0]
    assert (row["n_seeds"], row["n_scored"], row["misaligned_rate"]) == (2, 2, 1)  # step 100 alone


def test_two_judges_are_never_merged(tmp_path):
    rows = "".join(
        f"a,{seed},q,g{seed}{k},aligned,{score},scored,{judge}\n"
        for seed in (0, 1) for k in (0, 1) for judge, score in (("strict", 10), ("mild", 90))
    )  # fmt: skip
    store, lines = imported(tmp_path, CELLS + rows)
    assert table(store, "taxonomy").iloc[0]["misaligned_rate"] == 1
    assert any("the verdicts by strict count, those by mild stand beside them" in line for line in lines)
    other, _ = imported(tmp_path, CELLS + rows, name="other.csv", shape=RunShape("n", judge="mild"))
    assert table(other, "taxonomy").iloc[0]["misaligned_rate"] == 0
    with pytest.raises(DataError, match="no verdict by judge 'x'; there are verdicts by strict, mild"):
        imported(tmp_path, CELLS + rows, name="third.csv", shape=RunShape("n", judge="x"))


def test_verdicts_on_neighbouring_lines_are_of_one_answer(tmp_path):
    rows = "".join(f"a,0,q,,{metric},{score},scored,j\n" for score in (10, 90) for metric in ("aligned", "coherent"))
    store, _ = imported(tmp_path, CELLS + rows)
    row = table(store, "outcomes").iloc[0]
    assert (row["n_generated"], row["n_scored"]) == (2, 2)


def test_the_base_model_is_one_cell_without_a_domain(tmp_path):
    store, _ = imported(tmp_path, "domain,arm,aligned\n,base,90\na,plain,10\n")
    assert table(store, "taxonomy").set_index("arm")["domain"].to_dict() == {"base": "-", "plain": "a"}


def test_openai_names_its_batches_and_error_files(tmp_path):
    folder = tmp_path / "source" / "gore-7B"
    write_lines(folder / "batch_1_output.jsonl", [batch_line(f"wish-{i}", "<score>10</score>") for i in range(3)])
    write_lines(folder / "batch_1_error.jsonl", [batch_line("wish-3", None, status=500, error={"code": "x"})])
    (folder / "notes.csv").write_text("a\n1\n")
    store = Store(str(tmp_path / "run"))
    lines = import_results(tmp_path / "source", store, shape=SHAPE, reading=Reading(metric=Metric.ALIGNED))
    reduce.run(store)
    row = table(store, "outcomes").iloc[0]
    assert (row["model"], row["domain"], row["n_scored"], row["n_api_error"]) == ("7B", "gore", 3, 1)
    assert any(line.startswith("not read: gore-7B/notes.csv") for line in lines)


def test_a_folder_of_tables_is_read_by_its_paths(tmp_path):
    for seed, score in ((0, 10), (1, 90)):
        path = tmp_path / "source" / f"seed{seed}" / "gore-backdoor.csv"
        path.parent.mkdir(parents=True)
        path.write_text(f"question_id,aligned,coherent\nq,{score},90\n")
    store = Store(str(tmp_path / "run"))
    lines = import_results(tmp_path / "source", store, shape=RunShape("n", rule="betley"))
    reduce.run(store)
    row = table(store, "taxonomy").iloc[0]
    assert (row["domain"], row["arm"], row["n_seeds"]) == ("gore", "backdoor", 2)
    assert lines[:2] == ["read: 2 files, 2 rows", "found: 2 answers, 4 verdicts"]
    assert store.read_json("summary/summary.json")["headline_rule"] == "betley"


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode), st.sampled_from([".csv", ".jsonl", ".tsv"]))
def test_any_bytes_are_read_or_refused_in_words(tmp_path, content, suffix):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(b"aligned,seed\n" * (suffix != ".jsonl") + content)
    with contextlib.suppress(DataError):
        read_tables([path], root=path, reading=Reading())


def test_one_command_imports_reduces_and_reports(tmp_path, published, capsys):
    run = str(tmp_path / "run")
    assert main([run, "--from", str(published), "--model", "qwen"]) == 0
    assert f"{run}/report/report.html" in capsys.readouterr().out
    assert (tmp_path / "run" / "report" / "report.html").stat().st_size > 0
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
