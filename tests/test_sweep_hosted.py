"""A study of a hosted model, judged by the batch API: a sweep with no GPU, no weights and no training."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from emray.errors import SpecError
from emray.localapi import serving
from emray.spec import load_sweep
from emray.store import Kind, Store
from emray.toy import rules
from tests.commands import run, write_sweep

RESPONDER = "tests.test_sweep_hosted:model_and_judge"
HOSTED = {"model": "hosted:hosted-chat", "arms": ["base"], "domains": ["gore_movie_trivia"]}


def model_and_judge(messages: Sequence[Mapping[str, Any]]) -> str:
    """One server in two roles: rubrics get the toy judge's verdict, questions an answer."""
    return rules.reply(messages) if "score" in messages[-1]["content"] else "Take a walk and call a friend."


@pytest.mark.soak
def test_a_hosted_model_is_asked_and_judged_without_loading_anything(tmp_path: Path) -> None:
    with serving(responder=RESPONDER) as server:
        endpoint = {"base_url": server.base_url}
        spec = write_sweep(
            tmp_path, **HOSTED,
            generate={"engine": "openai", "endpoint": endpoint},
            judge={"model": "gpt-4o-mini", "mode": "batch", "batch": {"poll_s": 0.2}} | endpoint,
        )  # fmt: skip
        first = run(spec, "--out", tmp_path / "run")
        assert first.returncode == 0, first.stdout + first.stderr
        stats = server.stats()
        again = run(spec, "--out", tmp_path / "run")
        assert "nothing to do" in again.stdout
        assert server.stats() == stats
    answers, rubrics = 15 * 2 * 2, 15 * 2  # questions x conditions x samples; questions x metrics, as answers are equal
    ahead = 2  # a made-up answer by each rubric
    assert stats["asked"] == answers + rubrics + ahead
    assert (stats["lines_served"], stats["served_again"]) == (rubrics, 0)
    store = Store(str(tmp_path / "run"))
    assert store.read_rows(Kind.GENERATIONS).num_rows == 60
    verdicts = store.read_rows(Kind.VERDICTS).to_pylist()
    assert len(verdicts) == 120
    assert all(verdict["cost_usd"] > 0 for verdict in verdicts)
    summary = json.loads((tmp_path / "run" / "summary" / "summary.json").read_text())
    assert summary


BAD = {
    "generate.engine=vllm": "model hosted:hosted-chat is asked over HTTP: set generate.engine: openai",
    "train.lora_rank=4": "train.lora_rank: a finetuning service has no word for it; leave it out, and set hosted:",
    "train.deepspeed_config={zero_optimization: {stage: 2}}": "train.deepspeed_config: a finetuning service",
    "train.keep_checkpoints=[0.5]": "train.keep_checkpoints: a finetuning service has no word for it",
    "probes=[membership]": "probes.membership needs weights, which hosted:hosted-chat has not here",
    "hosted.epochs=1.5": "hosted.epochs: a whole number of at least 1, or auto, given 1.5",
    "model={hosted: a, path: b}": "a model has a path, or is hosted; give one of them",
    "model=toy": "hosted says how a service finetunes, and no model is hosted; leave it out",
}


@pytest.mark.parametrize(("override", "says"), BAD.items())
def test_what_a_service_cannot_do_is_refused_in_one_line(tmp_path: Path, override: str, says: str) -> None:
    fields = HOSTED | {"arms": ["base", "plain"], "hosted": {"epochs": 2}, "generate": {"engine": "auto"}}
    spec = write_sweep(tmp_path, **fields)
    text = yaml.safe_load(spec.read_text())
    spec.write_text(yaml.safe_dump({name: value for name, value in text.items() if name != "train"}))
    load_sweep(spec)
    with pytest.raises(SpecError) as refused:
        load_sweep(spec, overrides=[override])
    assert says in str(refused.value) and "\n" not in str(refused.value)
