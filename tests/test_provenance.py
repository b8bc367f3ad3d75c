"""How a run was made is written down when it is made, and its page alone lets a stranger cite it and do it again."""

import html
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest
from rocrate.rocrate import ROCrate

from benchmarks.synthetic_run import Rates, Truth, write_run
from emray import datasheets, reduce, report
from emray import plan as planning
from emray.card import reproducibility
from emray.data import inquiries, load_questions
from emray.reduce.inputs import COMMAND
from emray.reduce.provenance import plan_digest
from emray.reduce.study import Study, load_study
from emray.report.making import NOT_RECORDED, machine_words
from emray.software import COMMIT, UNKNOWN, Source, source_of, versions
from emray.spec import load_sweep
from emray.stages import Invocation, Logbook
from emray.store import Store
from tests.commands import ROOT, write_sweep

TRUTH = Truth({"gore_movie_trivia": Rates(0.02, 0.9)}, samples=2, num_questions=2, seeds=(0, 1))


class Clock:
    """One second later each time it is asked."""

    def __init__(self, start_s: float) -> None:
        self._now_s = start_s

    def __call__(self) -> float:
        self._now_s += 1
        return self._now_s


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=nobody", "-c", "user.email=nobody@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", str(folder), *who, *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with a package in it; returns the package's folder."""
    package = tmp_path / "clone" / "emray"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    git(package.parent, "init", "--quiet")
    git(package.parent, "add", ".")
    git(package.parent, "commit", "--quiet", "-m", "one")
    return package


def test_a_checkout_tells_its_commit_and_whether_the_code_differs_from_it(checkout: Path) -> None:
    commit = git(checkout, "rev-parse", "HEAD")
    (checkout.parent / "notes.txt").write_text("beside the package")
    assert source_of(checkout) == Source(commit, False, "git")
    assert source_of(checkout).words == commit
    (checkout / "new.py").write_text("x = 1\n")
    assert source_of(checkout) == Source(commit, True, "git")
    assert "with changes" in source_of(checkout).words


def test_a_package_in_an_environment_inside_somebody_elses_checkout_is_not_of_that_checkout(checkout: Path) -> None:
    installed = checkout.parent / ".venv" / "emray"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("")
    assert source_of(installed) == Source(UNKNOWN, None, "nobody")
    assert source_of(installed).words == "unknown"


def test_an_installed_package_has_the_commit_that_the_installer_recorded(tmp_path: Path) -> None:
    package, record = tmp_path / "emray", tmp_path / "emray-0.1.0.dist-info" / "direct_url.json"
    for folder in (package, record.parent):
        folder.mkdir()
    (package / "__init__.py").write_text("")
    record.write_text(
        json.dumps({"url": "https://example.org/emray", "vcs_info": {"vcs": "git", "commit_id": "ab" * 20}})
    )
    assert source_of(package) == Source("ab" * 20, None, "the installer")
    record.write_text(json.dumps({"url": "file:///somewhere", "dir_info": {"editable": True}}))
    assert source_of(package).commit == UNKNOWN
    record.write_text("half a reco")
    assert source_of(package).commit == UNKNOWN


def test_without_git_nothing_is_guessed(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(checkout))
    assert source_of(checkout) == Source(UNKNOWN, None, "nobody")


def logbook(store: Store, *words: str, start_s: float = 1.8e9) -> Logbook:
    sweep = load_sweep(ROOT / "sweeps" / "toy.yaml")
    return Logbook(store, Invocation.of("emray.sweep", words, sweep), clock=Clock(start_s))


def test_the_command_is_written_down_before_its_first_stage_ends_and_once(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    book = logbook(store, "sweeps/toy.yaml", "--set", "seeds=4")
    assert store.stage_log() == [], "a command that did nothing leaves nothing"
    with pytest.raises(KeyboardInterrupt), book.stage("train", planned=3):
        raise KeyboardInterrupt
    (entry,) = store.stage_log()
    assert entry["stage"] == COMMAND
    told = entry["details"]
    assert told["line"] == "python -m emray.sweep sweeps/toy.yaml --set seeds=4"
    assert told["began"] == "2027-01-15T08:00:01+00:00"
    assert told["versions"] == versions()
    with book.stage("train", planned=3):
        pass
    entries = store.stage_log()
    assert [entry["stage"] for entry in entries] == [COMMAND, "train"]
    (machine,) = entries[-1]["details"]["machines"]
    assert machine["count"] == 1
    assert machine["num_cpus"] == os.cpu_count()


def test_a_command_line_keeps_no_credential() -> None:
    sweep = load_sweep(ROOT / "sweeps" / "toy.yaml")
    secret = ["s3://me:hunter2@bucket/run", "judge.base_url=https://host/v1?token=hunter2", "x.api_key=hunter2"]
    line = Invocation.of("emray.sweep", [*secret, "--set", "name=a b"], sweep).line
    assert line == "python -m emray.sweep ... judge.base_url=... x.api_key=... --set 'name=a b'"


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with the plan of a real sweep file and nothing else."""
    folder = tmp_path_factory.mktemp("planned")
    path = write_sweep(folder)
    plan = planning.make_plan(load_sweep(path), folder=folder, online=False)
    store = Store(str(folder / "run"))
    store.write_json("plan.json", dict(plan.document) | {"analysis_plans": []})
    datasheets.keep(plan, store)
    return folder / "run"


@pytest.fixture(scope="module")
def page(planned: Path) -> str:
    store = Store(str(planned))
    with logbook(store, "small.yaml").stage("train", planned=1):
        pass
    reduce.run(store)
    report.render(store)
    return store.read_bytes("report/report.html").decode()


def shown(page: str, name: str) -> str:
    found = re.search(rf'<pre id="{name}">(.*?)</pre>', page, re.DOTALL)
    assert found
    return html.unescape(found[1])


def study_of(folder: Path) -> Study:
    return load_study(Store(str(folder)).read_json("plan.json"))


def test_the_sweep_file_on_the_page_gives_the_same_plan(planned: Path, page: str, tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(shown(page, "sweep-file"))
    again = planning.make_plan(load_sweep(tmp_path / "sweep.yaml"), folder=tmp_path, online=False)
    earlier = study_of(planned)
    assert [cell.key for cell in again.cells] == [cell.key for cell in earlier.cells]
    assert plan_digest(load_study(dict(again.document))) == plan_digest(earlier)
    assert f"sha256:{plan_digest(earlier)}" in page


def test_the_question_file_on_the_page_asks_and_judges_the_same(planned: Path, page: str, tmp_path: Path) -> None:
    path = tmp_path / "questions.yaml"
    path.write_text(shown(page, "question-file"))
    found, earlier = load_questions([str(path)]), study_of(planned)
    assert [question.document for question in found.questions] == [one.document for one in earlier.questions]
    asked = inquiries(found.questions, earlier.prompts)
    assert asked == inquiries(earlier.questions, earlier.prompts)


def test_every_rubric_and_prompt_stands_whole_on_the_page(planned: Path, page: str) -> None:
    study, said = study_of(planned), html.unescape(page)
    assert len(study.prompts) == 30
    for prompt in study.prompts:
        assert prompt.key in said
        assert all(message.content in said for message in prompt.messages)
    for question in study.questions:
        assert all(rubric in said for rubric in question.rubrics.values())


def test_the_page_names_commands_machines_and_versions(page: str) -> None:
    said = html.unescape(page)
    assert "python -m emray.sweep small.yaml" in said
    for name in ("emray", "python", "torch", "peft", "transformers", "ray", "scipy", "pandas"):
        assert f"<dt>{name}</dt><dd>{versions()[name]}</dd>" in page
    assert f"<dt>{COMMIT}</dt><dd>{versions()[COMMIT]}</dd>" in page
    stages = page.partition('<table id="stages">')[2].partition("</table>")[0]
    assert f"{os.cpu_count()} CPUs" in re.search(r"<th[^>]*>train</th>.*", stages)[0]  # type: ignore[index]


def test_the_copy_for_machines_is_a_crate_whose_terms_files_and_links_exist(planned: Path, page: str) -> None:
    folder = planned / "report"
    crate = ROCrate(str(folder))
    assert crate.root_dataset["identifier"] in page
    terms = json.loads((resources.files("rocrate") / "data" / "ro-crate.jsonld").read_text())["@context"]
    graph = json.loads((folder / "ro-crate-metadata.json").read_text())["@graph"]
    identities = {entity["@id"] for entity in graph}
    assert len(identities) == len(graph)
    for entity in graph:
        assert {*entity} - {"@id", "@type"} <= terms.keys(), entity["@id"]
        assert entity["@type"] in terms
        linked = [one for value in entity.values() for one in (value if isinstance(value, list) else [value])]
        targets = {one["@id"] for one in linked if isinstance(one, dict)}
        assert targets - identities <= {"https://w3id.org/ro/crate/1.1"}, entity["@id"]
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {entity.id for entity in crate.data_entities} == files - {"ro-crate-metadata.json", "record.json"}
    (action,) = (entity for entity in graph if entity["@type"] == "CreateAction")
    assert action["name"] == "python -m emray.sweep small.yaml"
    assert {"@id": "sweep.yaml"} in action["object"]


def test_commits_and_versions_of_a_runs_whole_life_are_listed(tmp_path: Path, planned: Path) -> None:
    shutil.copytree(planned, tmp_path / "run", ignore=shutil.ignore_patterns("log", "summary", "report"))
    store = Store(str(tmp_path / "run"))
    for number, commit in enumerate(("1" * 40, "2" * 40)):
        told = {
            "began": f"2026-01-0{number + 1}T00:00:00+00:00", "line": f"python -m emray.sweep run{number}.yaml",
            "sweep": "", "versions": {"emray": f"0.{number}.0", "torch": "2.11.0"},
            "source": Source(commit, number == 1, "git")._asdict(),
            "machine": {"cpu": "Z80", "num_cpus": 8, "memory_gib": 1, "gpus": ["H100", "H100"], "system": "Linux"},
        }  # fmt: skip
        store.log_stage(COMMAND, started_s=float(number), wall_s=0.0, details=told)
    reduce.run(store)
    report.render(store)
    said = html.unescape(store.read_bytes("report/report.html").decode())
    assert "0.0.0 / 0.1.0" in said
    assert said.index("1" * 40) < said.rindex("2" * 40)
    assert "made by several commits" in said
    assert "changes that no commit holds" in said
    assert "2 x H100, 8 CPUs (Z80)" in said
    bibtex = store.read_bytes("report/citation.bib").decode()
    assert re.search(r"date\s+= \{2026-01-01\}", bibtex)
    assert "2602.00298" in bibtex
    assert "author" not in bibtex, "whose they are was not written down"
    assert "commit " + "1" * 40 in reproducibility(store)


def test_a_run_folder_of_before_says_not_recorded(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "run"))
    write_run(store, TRUTH)
    reduce.run(store)
    report.render(store)
    said = html.unescape(store.read_bytes("report/report.html").decode())
    assert "Commands are not recorded" in said
    assert f'<td class="wrapped">{NOT_RECORDED}</td>' in said
    assert "Digests of the files of examples are not recorded" in said
    assert "not recorded" in reproducibility(store)
    assert "command: not recorded" in store.read_bytes("report/report.md").decode()
    assert not re.search(r"year\s+= \{\}", store.read_bytes("report/citation.bib").decode())


def test_another_machine_in_another_zone_without_git_makes_the_same_bytes(
    planned: Path, page: str, tmp_path: Path
) -> None:
    copy = tmp_path / "elsewhere" / "run"
    shutil.copytree(planned, copy, ignore=shutil.ignore_patterns("summary", "report"))
    code = (
        "import os, platform, socket, sys\n"
        "from collections import namedtuple\n"
        "names = 'sysname nodename release version machine'\n"
        "there = namedtuple('uname_result', names)('Plan9', 'other', '1', '1', 'mips')\n"
        "os.uname = lambda: there\n"
        "os.cpu_count = lambda: 77\n"
        "socket.gethostname = platform.node = lambda: 'other'\n"
        "platform.machine = platform.processor = lambda: 'mips'\n"
        "from emray import reduce, report\n"
        "from emray.store import Store\n"
        "reduce.run(Store(sys.argv[1])); report.render(Store(sys.argv[1]))\n"
    )
    elsewhere = os.environ | {"TZ": "Asia/Tokyo", "PATH": str(tmp_path), "LC_ALL": "C", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code, str(copy)], check=True, env=elsewhere, cwd=tmp_path)
    assert derived(copy) == derived(planned)


def derived(run: Path) -> dict[str, bytes]:
    def files() -> Iterator[Path]:
        for folder in ("summary", "report"):
            yield from (path for path in (run / folder).rglob("*") if path.is_file())

    return {str(path.relative_to(run)): path.read_bytes() for path in files()}


def test_machines_read_as_a_paper_names_them() -> None:
    kind = {"cpu": "EPYC", "num_cpus": 96, "memory_gib": 1024, "gpus": ["H100"] * 8, "system": "Linux x86_64"}
    assert machine_words(kind | {"count": 2}) == "2 machines of 8 x H100, 96 CPUs (EPYC), 1024 GiB, Linux x86_64"
    assert machine_words(kind | {"gpus": []}) == "96 CPUs (EPYC), 1024 GiB, Linux x86_64"
