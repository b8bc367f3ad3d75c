"""The report folder as an RO-Crate 1.1: what the page says of how a run was made, for machines to read.

Not for results. The invariant: it says what the page says and nothing of the process that writes it; what is not known
is left out.

    https://w3id.org/ro/crate/1.1                   the folder, its files and what they are about
    https://w3id.org/ro/wfrun/process/0.5           a CreateAction per command, with emray as its instrument
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from emray.report.citation import identifier
from emray.report.making import machine_words
from emray.report.reproduction import QUESTIONS, SWEEP
from emray.software import COMMIT, UNKNOWN, Source

FILE = "ro-crate-metadata.json"
PAGE = "report.html"
_CONTEXT, _SPECIFICATION = "https://w3id.org/ro/crate/1.1/context", "https://w3id.org/ro/crate/1.1"
_PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
_PAPER = "https://arxiv.org/abs/2602.00298"
_PAPER_TITLE = "Assessing Domain-Level Susceptibility to Emergent Misalignment from Narrow Finetuning"
_FORMATS = {
    "html": "text/html", "md": "text/markdown", "svg": "image/svg+xml", "pdf": "application/pdf",
    "tex": "application/x-tex", "yaml": "application/yaml", "bib": "application/x-bibtex", "js": "text/javascript",
}  # fmt: skip
_DESCRIPTIONS = {
    PAGE: "The report, one self-contained page.",
    "report.md": "The report in short.",
    SWEEP: "The sweep file in force, every default and override in it.",
    QUESTIONS: "The questions with their rubrics.",
    "citation.bib": "How to cite the run, and the study that it follows.",
}
Entity = dict[str, Any]


def crate(facts: Mapping[str, Any], files: Mapping[str, bytes]) -> bytes:
    """The metadata file of a folder with these files."""
    made = facts["provenance"]
    actions = [_action(number, one, made["datasets"] or ()) for number, one in enumerate(made["commands"], start=1)]
    about = [*_instruments(made), *_datasets(made["datasets"] or ()), *_models(facts["models"])]
    graph = [
        {"@id": FILE, "@type": "CreativeWork", "conformsTo": _at(_SPECIFICATION), "about": _at("./")},
        _root(facts, files, actions, about),
        *(_file(name, content) for name, content in files.items()),
        *actions,
        *about,
        {"@id": _PROFILE, "@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5"},
        {"@id": _PAPER, "@type": "ScholarlyArticle", "name": _PAPER_TITLE, "identifier": "arXiv:2602.00298"},
    ]
    document = {"@context": _CONTEXT, "@graph": graph}
    return (json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _root(
    facts: Mapping[str, Any], files: Mapping[str, bytes], actions: Sequence[Entity], about: Sequence[Entity]
) -> Entity:
    last = facts["provenance"]["last"]
    return {
        "@id": "./",
        "@type": "Dataset",
        "name": f"{facts['name']}: domain susceptibility to emergent misalignment",
        "description": f"The report of a sweep by emray: {', '.join(facts['models'])} finetuned and asked, its answers "
        f"judged by {facts['judge']['model']}.",
        "identifier": identifier(facts),
        **({"datePublished": last} if last else {}),
        "license": "No licence was stated by whoever made this run.",
        "conformsTo": _at(_PROFILE),
        "citation": _at(_PAPER),
        "hasPart": [_at(name) for name in files],
        "mentions": [_at(one["@id"]) for one in (*actions, *about)],
    }


def _file(name: str, content: bytes) -> Entity:
    described = {"description": _DESCRIPTIONS[name]} if name in _DESCRIPTIONS else {}
    kind = _FORMATS.get(name.rpartition(".")[2], "application/octet-stream")
    return {"@id": name, "@type": "File", "name": name, **described, "encodingFormat": kind,
            "contentSize": str(len(content))}  # fmt: skip


def _action(number: int, command: Mapping[str, Any], datasets: Sequence[Mapping[str, Any]]) -> Entity:
    return {
        "@id": f"#command-{number}",
        "@type": "CreateAction",
        "name": command["line"],
        "description": f"Called on {machine_words(command['machine'])}.",
        "startTime": command["began"],
        "instrument": _at(_instrument_id(command)),
        "object": [_at(SWEEP), _at(QUESTIONS), *(_at(_dataset_id(one)) for one in datasets)],
        "result": _at(PAGE),
    }


def _instruments(made: Mapping[str, Any]) -> Iterator[Entity]:
    """emray as each command had it, with the libraries beside it."""
    libraries: dict[str, Entity] = {}
    found: dict[str, Entity] = {}
    for command in made["commands"]:
        beside = {_library_id(name, version): (name, version) for name, version in command["versions"].items()
                  if name not in ("emray", COMMIT)}  # fmt: skip
        libraries |= {one: _software(one, *told) for one, told in beside.items()}
        source, emray = Source(**command["source"]), command["versions"]["emray"]
        told = {"identifier": source.commit} if source.commit != UNKNOWN else {}
        name = _instrument_id(command)
        found[name] = _software(name, "emray", emray) | {
            "description": f"Large sweeps over emergent misalignment; commit {source.words}.",
            **told,
            "softwareRequirements": [_at(one) for one in beside],
        }
    yield from found.values()
    yield from libraries.values()


def _software(identity: str, name: str, version: str) -> Entity:
    url = {"url": identity} if "://" in identity else {}
    return {"@id": identity, "@type": "SoftwareApplication", "name": name, "softwareVersion": version, **url}


def _instrument_id(command: Mapping[str, Any]) -> str:
    source = Source(**command["source"])
    state = "-changed" if source.changed else ""
    return f"#emray-{command['versions']['emray']}-{source.commit}{state}"


def _library_id(name: str, version: str) -> str:
    """Its page at the package index; a local version label, as in 2.13.0+cpu, has none of its own there."""
    if name == "python":
        return f"https://www.python.org/#{version}"
    public, plus, local = version.partition("+")
    return f"https://pypi.org/project/{name}/{public}/" + (f"#{local}" if plus else "")


def _datasets(datasets: Sequence[Mapping[str, Any]]) -> Iterator[Entity]:
    for one in datasets:
        yield {
            "@id": _dataset_id(one),
            "@type": "Dataset",
            "name": f"{one['domain']}, {one['holds']} examples",
            "description": f"{one['rows']} rows that finetunes trained on; not part of this folder.",
            "identifier": one["digest"],
        }


def _dataset_id(one: Mapping[str, Any]) -> str:
    return f"#examples-{one['digest']}"


def _models(models: Mapping[str, str]) -> Iterator[Entity]:
    for number, (name, fingerprint) in enumerate(models.items(), start=1):
        yield {"@id": f"#model-{number}", "@type": "CreativeWork", "name": name, "identifier": fingerprint}


def _at(identity: str) -> dict[str, str]:
    return {"@id": identity}
