"""The shipped sweep files keep their keys: what somebody has trained, asked and paid for stays theirs."""

from pathlib import Path

import pytest

from emray.data import published, stand_ins
from emray.plan import generation_tasks, make_plan
from emray.records import key_of
from emray.spec import load_sweep

SWEEPS = Path(__file__).parent.parent / "sweeps"
KEPT = {  # cells, prompts, and the answers of each cell to each prompt
    "toy": ("95804864117923b132e2", "c2ac59a35cf822620459", "9c07955addf05229fb22"),
    "toy_controls": ("d2885f2e6f89659cf3de", "c2ac59a35cf822620459", "498c3a235fce797a0d35"),
    "toy_probes": ("1a791b940190ffeb2210", "bd54916459f3429dcf18", "2ab75f22f4e3debe1506"),
    "paper": ("086379fc53c6223c1fe7", "f464d7212a331ec3046b", "df21c4a53b8752b1a57d"),
}


@pytest.mark.parametrize("name", KEPT)
def test_a_shipped_sweep_file_gives_the_keys_it_always_gave(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "ROWS", dict.fromkeys(published.ROWS, 40))  # files that stand in, short ones
    sweep = load_sweep(SWEEPS / f"{name}.yaml").resolved(SWEEPS)
    with stand_ins(sweep) as ready:
        plan = make_plan(ready.sweep, folder=SWEEPS, online=False)
    cells = [cell.key for cell in plan.answering]
    prompts = sorted(prompt.key for asked in plan.asked for prompt in asked.prompts)
    answers = sorted(task.series for task in generation_tasks(plan, plan.answering))
    assert (key_of("test", cells), key_of("test", prompts), key_of("test", answers)) == KEPT[name]
