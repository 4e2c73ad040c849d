"""Types that several parts of a recipe share."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from galley.registry import Registry

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Dtype = Literal["fp32", "bf16", "fp16"]
OffloadDevice = Literal["none", "cpu", "nvme"]
MAX_PORT = 65535

_DAYS = re.compile(r"(\d+)-(\d\d?)(?::(\d\d))?(?::(\d\d))?")


def minutes_of(value: object) -> object:
    """Minutes of a time as Slurm writes it, rounded up: `2-12:00:00` is 3600. Other values stay.

    Only with days: YAML reads an unquoted `12:30:00` as the number 45000.
    """
    found = _DAYS.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        return value
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) + (seconds > 0)


Minutes = Annotated[int, Field(gt=0), BeforeValidator(minutes_of)]


@dataclass(frozen=True)
class NameIn:
    """A name in a registry, one of the words `also`, or (`own`) a class in a folder of plugins.

    Packages that are not Galley's are asked for theirs only if the name is none of Galley's.
    """

    registry: Registry
    also: tuple[str, ...] = ()
    own: bool = False

    def names(self) -> list[str]:
        return [*self.also, *self.registry]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._checked, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"type": "string", "enum": self.names()}

    def _checked(self, name: str) -> str:
        if (self.own and ":" in name) or name in self.also or name in self.registry:
            return name
        raise PydanticCustomError("name", "is not a name")
