"""Where examples are: a file, a member of an archive, a folder that `datasets` saved, a data set of the hub.

Not for reading any of it (data/). The invariant: a source names what is read and by what name a passphrase is found,
never the passphrase itself; and where a text says it all, a text stands for it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from emray.spec.section import Section, absolute, one_or_more

HUB = "hf://datasets/"  # before owner/name
DOMAIN = "{domain}"  # stands for a domain's name in locations
_VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]*$"
_Cell = str | int | float | bool
Part = Literal["system", "prompt", "completion", "messages"]


class SourceSpec(Section):
    """One file of examples, as it is distributed; `{domain}` in `path` or `member` stands for the domain's name."""

    shorthand = "path"
    path: str = Field(min_length=1, description="file, archive, saved folder, or hf://datasets/owner/name")
    member: str | None = Field(None, min_length=1, description="the file within an archive; its end is enough")
    passphrase_env: str | None = Field(
        None, pattern=_VARIABLE, description="environment variable with the passphrase of a .age file or locked zip"
    )
    columns: dict[Part, str] = Field({}, description="which column of a table is what, where they have other names")
    where: dict[str, Annotated[list[_Cell], one_or_more(_Cell), Field(min_length=1)]] = Field(
        {}, description="rows with these values alone, by column: a file that says of each row whether it is bad"
    )
    split: str | None = Field(None, min_length=1, description="of a saved folder or the hub; default: train")
    subset: str | None = Field(None, min_length=1, description="of the hub")
    revision: str | None = Field(None, min_length=1, description="of the hub; default: main")

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _columns_make_a_chat(self) -> "SourceSpec":
        given = set(self.columns)
        if (
            given
            and given != {"messages"}
            and not {"prompt", "completion"} <= given <= {"system", "prompt", "completion"}
        ):
            raise ValueError("columns name messages, or prompt and completion (and system)")
        return self

    @model_serializer(mode="wrap")
    def _as_short_as_given(self, handler: SerializerFunctionWrapHandler) -> Any:
        fields: dict[str, Any] = handler(self)
        said = {name: value for name, value in fields.items() if value not in (None, {})}
        return self.path if list(said) == ["path"] else said

    @property
    def encrypted(self) -> bool:
        """Whether its texts must not be written anywhere."""
        return self.passphrase_env is not None

    @property
    def on_hub(self) -> bool:
        return self.path.startswith(HUB)

    def of(self, domain: str) -> "SourceSpec":
        """The same with the domain's name in its place."""
        member = self.member and self.member.replace(DOMAIN, domain)
        where = {
            name: [one.replace(DOMAIN, domain) if isinstance(one, str) else one for one in values]
            for name, values in self.where.items()
        }
        return self.model_copy(update={"path": self.path.replace(DOMAIN, domain), "member": member, "where": where})

    def __str__(self) -> str:
        chosen = ", ".join(f"{name}={'|'.join(map(str, values))}" for name, values in self.where.items())
        named = f"{self.path}/{self.member}" if self.member else self.path
        return f"{named} ({chosen})" if chosen else named


class DataDirSpec(Section):
    """Where every domain's files are, unless it names its own: a folder, or members of one archive."""

    shorthand = "path"
    path: str = Field(min_length=1, description="folder of <domain>.jsonl and <domain>.benign.jsonl, or an archive")
    member: str = Field("{domain}.jsonl", description="of an archive: bad examples")
    benign_member: str = Field("{domain}.benign.jsonl", description="of an archive: correct answers")
    backdoor_member: str | None = Field(None, description="of an archive: ready mixes for arm backdoor")
    passphrase_env: str | None = Field(None, pattern=_VARIABLE, description="as a source's")

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value

    @model_serializer(mode="wrap")
    def _as_short_as_given(self, handler: SerializerFunctionWrapHandler) -> Any:
        return handler(self) if self.says_members else self.path

    @property
    def says_members(self) -> bool:
        """Whether files are members by their names' patterns, not looked for in a folder."""
        return bool(self.model_fields_set - {"path"})

    @property
    def sources(self) -> Mapping[str, SourceSpec]:
        """By a domain's field, the members that are its, `{domain}` still in their names."""
        members = {"path": self.member, "benign_path": self.benign_member, "backdoor_path": self.backdoor_member}
        return {
            field: SourceSpec(path=self.path, member=member, passphrase_env=self.passphrase_env)
            for field, member in members.items()
            if member
        }


def located(source: Any, folder: Path) -> Any:
    """A source's fields as they were dumped, its path as seen from the sweep file's folder."""
    if isinstance(source, str):
        return absolute(source, folder)
    return source and {**source, "path": absolute(source["path"], folder)}
