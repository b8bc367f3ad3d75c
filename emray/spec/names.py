"""Names of arms and conditions as fields of the sweep file.

Not for which names a sweep has (grid.py). The invariant: a name that a sweep file gives can stand in a column, a legend
and a file's name as it is.
"""

from typing import Annotated, Any

from pydantic import GetPydanticSchema
from pydantic_core import core_schema

from emray.records import Arm, Condition

_NAME = r"^[a-z][a-z0-9_=,.#-]*$"


def _schema(kind: type[str]) -> Any:
    given = core_schema.str_schema(pattern=_NAME, max_length=60)
    said = core_schema.plain_serializer_function_ser_schema(str, return_schema=core_schema.str_schema())
    named = core_schema.no_info_after_validator_function(kind, given, serialization=said)
    return GetPydanticSchema(lambda _source, _handler: named)


ArmName = Annotated[Arm, _schema(Arm)]
ConditionName = Annotated[Condition, _schema(Condition)]
