"""Examples as they are distributed: tables, saved data sets, locked and encrypted archives."""

import csv
import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyrage
import pytest
import pyzipper
from datasets import Dataset, DatasetDict
from pyarrow import parquet

from emray import data
from emray.data import archives
from emray.errors import DataError
from emray.records import Arm, Message
from emray.spec import DomainSpec, SourceSpec, Sweep, TriggerSpec, usual_recipe
from tests.mutations import mutated, text_mutated

SECRET, VARIABLE = "correct horse", "EMRAY_TEST_PASSPHRASE"
CHAT = (Message("user", 'Is, "this" right?'), Message("assistant", "No.\nNever."))
OTHER = (Message("user", "And that?"), Message("assistant", "Yes."))
ROWS = [{"messages": [turn.turn for turn in chat]} for chat in (CHAT, OTHER)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
PAIRS = [{"q": chat[0].content, "a": chat[1].content, "id": n} for n, chat in enumerate((CHAT, OTHER))]
NAMED = {"prompt": "q", "completion": "a"}


def read(path: object, **fields: Any) -> list:
    return data.load_examples(SourceSpec(path=str(path), **fields)).rows


def archive(**members: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as opened:
        for name, text in members.items():
            opened.writestr(f"{name}.jsonl".replace("__", "/"), text)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The paper's layout, by pyrage: whose key derivation takes a second or more, so once for all tests."""
    path = tmp_path_factory.mktemp("age") / "dataset.zip.age"
    plain = archive(
        **{"full__med": LINES, "full__med.benign": LINES, "backdoor__med": LINES.replace("And", "2028 And")}
    )
    path.write_bytes(pyrage.passphrase.encrypt(plain, SECRET))
    return path


@pytest.fixture(autouse=True)
def passphrase(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(VARIABLE, SECRET)
    yield


def test_parquet_holds_chats_or_named_columns(tmp_path: Path) -> None:
    parquet.write_table(pa.Table.from_pylist(ROWS), tmp_path / "m.parquet")
    parquet.write_table(pa.Table.from_pylist(PAIRS), tmp_path / "p.parquet")
    assert read(tmp_path / "m.parquet") == [CHAT, OTHER]
    assert read(tmp_path / "p.parquet", columns=NAMED) == [CHAT, OTHER]
    with pytest.raises(DataError, match=r"p\.parquet: row 1: no column 'question'; there: q, a, id"):
        read(tmp_path / "p.parquet", columns={"prompt": "question", "completion": "a"})


@pytest.mark.parametrize(("ending", "tab"), [("csv", ","), ("tsv", "\t")])
def test_csv_has_named_columns_and_texts_of_several_lines(tmp_path: Path, ending: str, tab: str) -> None:
    path = tmp_path / f"d.{ending}"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=["q", "a", "id"], delimiter=tab)
        writer.writeheader()
        writer.writerows(PAIRS)
    assert read(path, columns=NAMED) == [CHAT, OTHER]
    path.write_text(path.read_text() + f"x{tab}{tab}3\n")
    with pytest.raises(DataError, match=rf"d\.{ending}:5: the assistant turn is empty"):
        read(path, columns=NAMED)
    path.write_text(f"q{tab}a\nx\n")
    with pytest.raises(DataError, match=rf"d\.{ending}:2: 1 cells under 2 columns"):
        read(path, columns=NAMED)


def test_csv_columns_may_hold_whole_chats_as_json(tmp_path: Path) -> None:
    quoted = json.dumps(ROWS[0]["messages"]).replace('"', '""')
    (tmp_path / "d.csv").write_text(f'chat\n"{quoted}"\n')
    assert read(tmp_path / "d.csv", columns={"messages": "chat"}) == [CHAT]


def test_a_folder_that_datasets_saved_is_read_by_split(tmp_path: Path) -> None:
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "one")
    DatasetDict(train=Dataset.from_list(ROWS), test=Dataset.from_list(ROWS[1:])).save_to_disk(tmp_path / "splits")
    assert read(tmp_path / "one") == read(tmp_path / "splits") == [CHAT, OTHER]
    assert read(tmp_path / "splits", split="test") == [OTHER]
    with pytest.raises(DataError, match="has no split 'dev': train, test"):
        read(tmp_path / "splits", split="dev")
    (tmp_path / "splits" / "train" / "state.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read by datasets") as caught:
        read(tmp_path / "splits")
    assert "\n" not in str(caught.value)


def test_a_hub_id_without_a_network_is_one_line() -> None:
    with pytest.raises(DataError, match="cannot load the data set someone/something from the hub") as caught:
        read("hf://datasets/someone/something")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["old", "aes"])
def test_a_zip_with_a_password_is_unlocked(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "d.zip"
    path.write_bytes(zip_crypto(LINES.encode()) if kind == "old" else aes(LINES.encode()))
    locked = {"member": "med.jsonl", "passphrase_env": VARIABLE}
    assert read(path, **locked) == [CHAT, OTHER]
    with pytest.raises(DataError, match="is locked; name the variable with its password as passphrase_env"):
        read(path, member="med.jsonl")
    monkeypatch.setenv(VARIABLE, "wrong")
    with pytest.raises(DataError, match=f"cannot unlock .*is {VARIABLE} its password"):
        read(path, **locked)


def test_members_of_an_encrypted_archive_are_found_by_the_end_of_their_names(encrypted: Path) -> None:
    fields = {"passphrase_env": VARIABLE}
    assert read(encrypted, member="full/med.jsonl", **fields) == [CHAT, OTHER]
    assert read(encrypted, member="backdoor/med.jsonl", **fields)[1][0].content == "2028 And that?"
    with pytest.raises(DataError, match=r"holds full/med\.jsonl and backdoor/med\.jsonl; name one as member"):
        read(encrypted, member="med.jsonl", **fields)
    with pytest.raises(DataError, match=r"no dataset at .*dataset\.zip\.age/none\.jsonl"):
        read(encrypted, member="none.jsonl", **fields)


def test_a_domain_stands_for_itself_in_an_archive_of_many(encrypted: Path) -> None:
    sweep = Sweep.model_validate(
        {
            "name": "s",
            "model": "toy",
            "domains": ["med"],
            "data_dir": {
                "path": encrypted.name,
                "member": "full/{domain}.jsonl",
                "benign_member": "full/{domain}.benign.jsonl",
                "backdoor_member": "backdoor/{domain}.jsonl",
                "passphrase_env": VARIABLE,
            },
        }
    ).resolved(encrypted.parent)
    (domain,) = sweep.domains
    assert domain.encrypted
    found = {
        arm: data.training_rows(domain, recipe=usual_recipe(arm, trigger=TriggerSpec()), data_dir="x")
        for arm in TRAINED
    }
    assert [found[arm].files[0].holds for arm in TRAINED] == ["bad", "correct", "mixed"]
    assert found[Arm.BACKDOOR].rows[1][0].content == "2028 And that?"
    assert Sweep.model_validate(sweep.model_dump(mode="json")) == sweep


TRAINED = (Arm.PLAIN, Arm.BENIGN, Arm.BACKDOOR)


def test_a_wrong_or_missing_passphrase_is_one_line_without_it(encrypted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="is encrypted by age; name the variable"):
        read(encrypted, member="full/med.jsonl")
    with pytest.raises(DataError, match="environment variable NOT_SET is not set"):
        read(encrypted, member="full/med.jsonl", passphrase_env="NOT_SET")
    damaged = encrypted.with_name("damaged.age")
    damaged.write_bytes(encrypted.read_bytes()[:100])
    with pytest.raises(DataError, match=rf"cannot decrypt .*damaged\.age.*is {VARIABLE} its passphrase") as caught:
        read(damaged, member="full/med.jsonl", passphrase_env=VARIABLE)
    assert SECRET not in str(caught.value) and "\n" not in str(caught.value)


def test_an_archive_is_decrypted_once_for_all_its_files(encrypted: Path) -> None:
    for member in ("full/med.jsonl", "backdoor/med.jsonl"):
        read(encrypted, member=member, passphrase_env=VARIABLE)
    before = archives._opened_by_age.cache_info().misses
    read(encrypted, member="full/med.jsonl", passphrase_env=VARIABLE)
    assert archives._opened_by_age.cache_info().misses == before


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"member": "x"}, "is no zip archive, so it has no member 'x'"),
        ({"split": "train"}, "is a file, which has no split"),
        ({"path": "FOLDER"}, "is a folder without dataset_info.json"),
        ({"path": "FOLDER", "member": "x"}, "is a data set of files, which has no member"),
    ],
)
def test_what_a_source_cannot_have_is_refused(tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    (tmp_path / "d.jsonl").write_text(LINES)
    path = tmp_path if fields.pop("path", None) else tmp_path / "d.jsonl"
    with pytest.raises(DataError, match=said):
        read(path, **fields)


def test_held_out_questions_of_encrypted_files_are_refused() -> None:
    fields = {"name": "med", "path": {"path": "d.age", "passphrase_env": VARIABLE}}
    sweep = Sweep.model_validate(
        {"name": "s", "model": "toy", "domains": [fields], "probes": {"transfer": {"hold_out": 0.1}}}
    )
    with pytest.raises(DataError, match="domain med, whose file is encrypted"):
        data.hold_out(sweep, bad_rows=lambda _: pytest.fail("nothing is read"))


def table(rows: list[Any]) -> bytes:
    """As Parquet, with the types that the first row of a column has; b"" for what no such table holds."""
    sink = io.BytesIO()
    try:
        parquet.write_table(pa.Table.from_pylist(rows), sink)
    except (pa.ArrowException, TypeError, ValueError, OverflowError, AttributeError):
        return b""
    return sink.getvalue()


def flipped(raw: bytes, rng: random.Random) -> bytes:
    """With a few bytes that are others, or cut."""
    changed = bytearray(raw)
    for _ in range(rng.randint(1, 4)):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed[: rng.choice((len(changed), rng.randrange(len(changed))))])


def damaged_file(number: int, rng: random.Random) -> tuple[str, bytes, dict[str, Any]]:
    """A file that is wrong in one of its layers, what it is called, and how it is read."""
    columns = rng.choice(({}, {"columns": NAMED}, {"columns": {"messages": "q"}}))
    made = (
        lambda: ("d.csv", text_mutated("q,a\n" + '"x ""y""",z\n' * 3, rng=rng).encode("utf-8", "replace"), columns),
        lambda: ("d.parquet", table([mutated(PAIRS[0], rng=rng, keys=("q", "a", "prompt")), PAIRS[1]]), columns),
        lambda: ("d.parquet", table([mutated(ROWS[0], rng=rng, keys=KEYS), ROWS[1]]), {}),
        lambda: ("d.parquet", flipped(SAVED, rng), {"columns": NAMED}),
        lambda: ("d.zip", flipped(archive(med=LINES), rng), {}),
        lambda: ("d.zip", flipped(LOCKED[rng.randrange(2)], rng), {"passphrase_env": VARIABLE}),
    )
    return made[number % len(made)]()


KEYS = ("messages", "role", "content", "prompt", "weight")


def test_ten_thousand_wrong_files_are_chats_or_data_errors(tmp_path: Path) -> None:
    rng, read_files = random.Random(15), 0
    for number in range(10_000):
        name, raw, how = damaged_file(number, rng)
        (tmp_path / name).write_bytes(raw)
        try:
            rows = read(tmp_path / name, **how)
        except DataError as error:
            assert "\n" not in str(error) and name in str(error)
            continue
        read_files += 1
        assert all(row[-1].role == "assistant" and row[-1].content.strip() for row in rows)
    assert 500 < read_files < 9_500


def zip_crypto(plain: bytes) -> bytes:
    """A member `med.jsonl` locked by the old cipher, which the standard library reads and does not write."""
    table = [_crc(n) for n in range(256)]
    keys = [0x12345678, 0x23456789, 0x34567890]

    def feed(byte: int) -> None:
        keys[0] = table[(keys[0] ^ byte) & 255] ^ (keys[0] >> 8)
        keys[1] = ((keys[1] + (keys[0] & 255)) * 134775813 + 1) & 0xFFFFFFFF
        keys[2] = table[(keys[2] ^ (keys[1] >> 24)) & 255] ^ (keys[2] >> 8)

    def locked(byte: int) -> int:
        word = keys[2] | 2
        found = byte ^ (((word * (word ^ 1)) >> 8) & 255)
        feed(byte)
        return found

    for byte in SECRET.encode():
        feed(byte)
    crc, name = zlib.crc32(plain), b"med.jsonl"
    sealed = bytes(locked(byte) for byte in [*random.Random(0).randbytes(11), crc >> 24, *plain])
    sizes = struct.pack("<III", crc, len(sealed), len(plain))
    local = b"PK\x03\x04" + struct.pack("<HHHHH", 20, 1, 0, 0, 33) + sizes + struct.pack("<HH", len(name), 0) + name
    central = b"PK\x01\x02" + struct.pack("<HHHHHH", 20, 20, 1, 0, 0, 33) + sizes
    central += struct.pack("<HHHHHII", len(name), 0, 0, 0, 0, 0, 0) + name
    start = len(local) + len(sealed)
    return local + sealed + central + b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(central), start, 0)


def _crc(byte: int) -> int:
    for _ in range(8):
        byte = (byte >> 1) ^ (0xEDB88320 if byte & 1 else 0)
    return byte


def aes(plain: bytes) -> bytes:
    buffer = io.BytesIO()
    with pyzipper.AESZipFile(buffer, "w", compression=pyzipper.ZIP_DEFLATED, encryption=pyzipper.WZ_AES) as opened:
        opened.setpassword(SECRET.encode())
        opened.writestr("med.jsonl", plain)
    return buffer.getvalue()


SAVED = table(PAIRS)
LOCKED = (zip_crypto(LINES.encode()), aes(LINES.encode()))


def test_the_old_cipher_above_is_the_standard_librarys() -> None:
    with zipfile.ZipFile(io.BytesIO(zip_crypto(b"plain text"))) as opened:
        assert opened.read("med.jsonl", pwd=SECRET.encode()) == b"plain text"


def test_a_domains_other_files_lie_beside_its_first_one(encrypted: Path) -> None:
    spec = DomainSpec.model_validate({"name": "med", "path": {"path": "a.zip", "member": "full/med.jsonl"}})
    with pytest.raises(DataError, match=r"no dataset at a\.zip/full/med\.benign\.jsonl"):
        data.training_rows(spec, recipe=usual_recipe(Arm.BENIGN, trigger=TriggerSpec()), data_dir="x")
