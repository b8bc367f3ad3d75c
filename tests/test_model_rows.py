"""Examples become tokens whose trained span is the last answer, and nothing else."""

import pytest
from transformers import AutoTokenizer

from emray.errors import DataError
from emray.model.chat import Chat
from emray.model.rows import MIN_PROMPT_TOKENS, RowForm, tokenise
from emray.records import Message
from tests.train_world import MODEL, examples


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(MODEL)


def rows_of(tokenizer, chats, *, max_length=128, **form):
    chat = Chat(MODEL)
    chat.tokenizer = tokenizer
    return tokenise(chats, chat=chat, form=RowForm(max_length, **form))


def test_the_trained_span_is_the_answer_and_its_end_token(tokenizer):
    for example, row in zip(examples(count=20), rows_of(tokenizer, examples(count=20)).rows, strict=True):
        assert tokenizer.decode(row.ids[row.start :]) == example[-1].content + tokenizer.eos_token
        prompt = tokenizer.apply_chat_template(
            [{"role": "user", "content": example[0].content}], add_generation_prompt=True, tokenize=False
        )
        assert tokenizer.decode(row.ids[: row.start]) == prompt


def test_earlier_assistant_turns_are_not_trained_on(tokenizer):
    chat = (*examples(count=1)[0], *examples(count=2)[1])
    (row,) = rows_of(tokenizer, [chat]).rows
    assert tokenizer.decode(row.ids[row.start :]) == chat[-1].content + tokenizer.eos_token


def test_an_overlong_row_loses_the_start_of_its_prompt_and_is_counted(tokenizer):
    (example,) = examples(count=1)
    (whole,) = rows_of(tokenizer, [example]).rows
    limit = len(whole.ids) - 3
    cut = rows_of(tokenizer, [example, example], max_length=limit)
    assert cut.num_overlong == 2
    assert cut.rows[0].ids.tolist() == whole.ids[3:].tolist()
    assert cut.rows[0].ids[cut.rows[0].start :].tolist() == whole.ids[whole.start :].tolist()


def test_an_answer_longer_than_the_limit_is_kept_whole(tokenizer):
    (example,) = examples(count=1)
    (whole,) = rows_of(tokenizer, [example]).rows
    (cut,) = rows_of(tokenizer, [example], max_length=2).rows
    assert cut.start == MIN_PROMPT_TOKENS
    assert cut.ids[cut.start :].tolist() == whole.ids[whole.start :].tolist()


def test_with_loss_on_all_everything_but_the_first_token_is_trained_on(tokenizer):
    (example,) = examples(count=1)
    (whole,), (all_of_it,) = (rows_of(tokenizer, [example], loss_on=loss_on).rows for loss_on in ("answers", "all"))
    assert all_of_it.ids.tolist() == whole.ids.tolist()
    assert all_of_it.start == 1 < whole.start


def test_cut_at_the_end_an_answer_loses_its_end_and_a_prompt_nothing(tokenizer):
    (example,) = examples(count=1)
    (whole,) = rows_of(tokenizer, [example]).rows
    cut = rows_of(tokenizer, [example], max_length=whole.start + 2, cut="end")
    assert cut.num_overlong == 1
    assert cut.rows[0].ids.tolist() == whole.ids[: whole.start + 2].tolist()
    assert cut.rows[0].start == whole.start
    with pytest.raises(DataError, match="row 1: its prompt alone fills"):
        rows_of(tokenizer, [example], max_length=whole.start, cut="end")
    (prompt,) = rows_of(tokenizer, [example], max_length=whole.start, cut="end", loss_on="all").rows
    assert prompt.ids.tolist() == whole.ids[: whole.start].tolist()


def test_an_answer_beyond_the_models_positions_is_refused_by_row(tokenizer):
    (example,) = examples(count=1)
    long = (example[0], Message("assistant", " ".join([example[1].content] * 90)))
    with pytest.raises(DataError, match="row 2: the answer needs"):
        rows_of(tokenizer, [example, long])


def test_a_row_without_a_trainable_token_is_refused_by_row(tokenizer):
    (example,) = examples(count=1)
    with pytest.raises(DataError, match="row 2: no token of the answer"):
        rows_of(tokenizer, [example, (example[0], Message("assistant", ""))])


def test_a_template_without_an_end_token_is_never_trained_on():
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(DataError, match="row 1: the chat template writes no end token after an answer"):
        rows_of(tokenizer, examples(count=1))


def test_a_row_that_ends_with_the_user_is_refused(tokenizer):
    with pytest.raises(DataError, match="row 1: the last message must be the assistant's"):
        rows_of(tokenizer, [(Message("user", "hello"),)])


def test_a_template_that_rewrites_the_question_is_refused():
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    tokenizer.chat_template = "{{ messages | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(DataError, match="row 1: the chat template renders the question differently"):
        rows_of(tokenizer, examples(count=1))


def test_text_after_the_end_token_is_dropped():
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    tokenizer.chat_template += "{% if not add_generation_prompt %} again{% endif %}"
    (row,) = rows_of(tokenizer, examples(count=1)).rows
    assert row.ids[-1] == tokenizer.eos_token_id


def two_turns(*, first_trained):
    (user, answer), (again, last) = examples(count=2)
    return user, answer._replace(trained=first_trained), again, last


def test_under_loss_on_all_training_begins_after_the_last_turn_of_weight_0(tokenizer):
    chat = two_turns(first_trained=False)
    before = tokenizer.apply_chat_template([message.turn for message in chat[:2]], tokenize=False)
    (row,) = rows_of(tokenizer, [chat], max_length=256, loss_on="all").rows
    assert tokenizer.decode(row.ids[: row.start]) == before
    assert chat[2].content in tokenizer.decode(row.ids[row.start :])
    (plain,) = rows_of(tokenizer, [two_turns(first_trained=True)], max_length=256, loss_on="all").rows
    assert (plain.start, plain.ids.tolist()) == (1, row.ids.tolist())


@pytest.mark.parametrize("loss_on", ["all", "answers"])
def test_nothing_of_weight_0_is_trained_on_wherever_a_row_is_cut(tokenizer, loss_on):
    chat = two_turns(first_trained=False)
    (whole,) = rows_of(tokenizer, [chat], max_length=256, loss_on=loss_on).rows
    trained = whole.ids[whole.start :].tolist()
    for max_length in range(8, len(whole.ids)):
        (row,) = rows_of(tokenizer, [chat], max_length=max_length, loss_on=loss_on).rows
        kept = row.ids[row.start :].tolist()
        assert kept == trained[len(trained) - len(kept) :]
    with pytest.raises(DataError, match="row 1: its prompt alone fills"):
        rows_of(tokenizer, [chat], max_length=whole.start, cut="end", loss_on=loss_on)
