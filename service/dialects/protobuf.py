"""Messages as protobuf's JSON has them (https://protobuf.dev/programming-guides/json)."""

from functools import cache
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic.alias_generators import to_snake


class Message(BaseModel):
    """A message as protobuf's JSON has it: unknown names are errors, numbers may be texts.

    Names may be those of the definition (``do_not_store``), which parsers have to accept.
    """

    model_config = ConfigDict(extra="forbid", coerce_numbers_to_str=True)

    @model_validator(mode="before")
    @classmethod
    def _set(cls, given: Any) -> Any:
        """Null stands for a field's default, which serializers write that leave no field out."""
        if not isinstance(given, dict):
            return given
        names = _defined(cls)
        # One that is there in both forms is left to be refused.
        named = {n if (n := names.get(k, k)) not in given else k: v for k, v in given.items()}
        return {k: v for k, v in named.items() if v is not None or k not in cls.model_fields}


@cache
def _defined(message: type[BaseModel]) -> dict[str, str]:
    """Names of the definition -> names of the fields."""
    return {to_snake(name): name for name in message.model_fields}
