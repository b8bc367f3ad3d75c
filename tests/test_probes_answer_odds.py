"""One pass a batch gives every token the odds that a pass of its own gives: packed, padded, with adapters."""

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from emray.model.chat import Chat
from emray.model.loaded import LoadedModel
from emray.model.rows import RowForm, TokenRow, tokenise
from emray.probes import answer_odds
from emray.probes.answer_odds import OddsReader, token_odds
from emray.probes.member_scores import AnswerOdds, scores_of
from emray.toy import MODEL_DIR
from tests.test_model_attention import SHAPES, rows, saved
from tests.train_world import examples


def loaded(folder):
    return LoadedModel(str(folder), config=AutoConfig.from_pretrained(folder), device="cpu")


def one_by_one(model, row):
    """The definition: a forward pass for every token of the answer, float64 arithmetic on its logits."""
    found = []
    for at in range(row.start, len(row.ids)):
        with torch.inference_mode():
            logits = model(input_ids=torch.from_numpy(row.ids[:at])[None], use_cache=False).logits[0, -1].double()
        log_probs = torch.log_softmax(logits, -1)
        mean = (log_probs.exp() * log_probs).sum()
        sd = ((log_probs.exp() * (log_probs - mean) ** 2).sum()) ** 0.5
        found.append([log_probs[row.ids[at]].item(), mean.item(), sd.item()])
    return AnswerOdds(*np.array(found).T)


def assert_equal(ours, theirs):
    for mine, expected in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(expected, rel=1e-5, abs=1e-5)
    mine, expected = scores_of(ours, text="some text"), scores_of(theirs, text="some text")
    assert mine == pytest.approx(expected, rel=1e-5, abs=1e-5)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """An adapter that changes what the toy model says."""
    folder = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(3)
    base = AutoModelForCausalLM.from_pretrained(MODEL_DIR, dtype=torch.float32)
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", init_lora_weights=False)
    get_peft_model(base, config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("adapted", [False, True])
def test_batched_odds_equal_those_of_a_pass_for_every_token(adapter, adapted):
    toy = tokenise(examples(count=5), chat=Chat(str(MODEL_DIR)), form=RowForm(128)).rows
    model = loaded(MODEL_DIR)
    reader = OddsReader(model, tokens_a_pass=100)
    if adapted:
        model.use("one", adapter)
    ours = reader.read(toy)
    for odds, row in zip(ours, toy, strict=True):
        assert_equal(odds, one_by_one(model.model, row))
    model.use(None, None)
    if adapted:
        assert np.abs(reader.read(toy)[0].log_probs - ours[0].log_probs).max() > 0.1


@pytest.mark.parametrize("name", ["qwen2", "granite", "gemma2", "mistral-window"])
def test_heads_that_scale_or_cap_their_logits_and_models_that_pad_are_read_as_they_are(tmp_path, name):
    model = loaded(saved(tmp_path, SHAPES[name]))
    reader = OddsReader(model, tokens_a_pass=40)
    mine = rows(9, 17, 23, 12)
    for odds, row in zip(reader.read(mine), mine, strict=True):
        assert_equal(odds, one_by_one(model.model, row))
    assert reader._head_is_all is (name not in ("granite", "gemma2"))


def test_logits_exist_in_slices(monkeypatch):
    seen = []

    def watched(logits, targets):
        seen.append(len(logits))
        return token_odds(logits, targets)

    mine = tokenise(examples(count=12), chat=Chat(str(MODEL_DIR)), form=RowForm(128)).rows
    reader = OddsReader(loaded(MODEL_DIR))
    whole = reader.read(mine)
    monkeypatch.setattr(answer_odds, "LOGIT_BYTES", 4 * reader._loaded.model.config.vocab_size * 10)
    monkeypatch.setattr(answer_odds, "token_odds", watched)
    for first, second in zip(whole, reader.read(mine), strict=True):
        assert np.array(first) == pytest.approx(np.array(second), abs=1e-5)
    assert max(seen) == 10 and len(seen) > 5


def test_odds_of_a_token_by_hand():
    # p = (1/2, 1/4, 1/4): mean of log2 p is -1.5, its variance .25; the target has p = 1/4.
    log2 = np.log(2)
    logits = torch.tensor([[-1.0, -2.0, -2.0]]) * log2 + 7
    log_prob, mean, sd = token_odds(logits, torch.tensor([1]))[:, 0].tolist()
    assert (log_prob, mean, sd) == pytest.approx((-2 * log2, -1.5 * log2, 0.5 * log2), rel=1e-6)


def test_a_token_that_is_sure_and_one_that_cannot_be_are_finite():
    logits = torch.tensor([[0.0, -float("inf")], [200.0, 0.0]])
    found = token_odds(logits, torch.tensor([0, 1]))
    assert torch.isfinite(found).all()
    assert found[:, 0].tolist() == [0, 0, 0]
    assert found[0, 1].item() == -200


def test_a_row_of_one_answer_token_is_read():
    reader = OddsReader(loaded(MODEL_DIR))
    (odds,) = reader.read([TokenRow(np.array([5, 6, 7]), 2)])
    assert [len(values) for values in odds] == [1, 1, 1]
    assert reader.read([]) == []
