"""The OpenAPI document: what FastAPI cannot know of routes that take the request as it is."""

import re
from collections.abc import Mapping
from typing import Any, Final

from fastapi import FastAPI

from service.dialects.registry import find

PARAMETER: Final = re.compile(r"{(\w+)}")
DEFINED: Final = "#/$defs/"
# What a path without a dialect's own words says.
REFUSALS: Final = {
    "4XX": "The request cannot be answered as it stands, or not now (429).",
    "5XX": "The service cannot answer now.",
}


class Application(FastAPI):
    """An application whose document is complete: definitions, errors, parameters of paths."""

    def openapi(self) -> dict[str, Any]:
        """The document, made once."""
        if self.openapi_schema is None:
            document = super().openapi()
            schemas: dict[str, Any] = document.setdefault("components", {}).setdefault(
                "schemas", {}
            )
            for path, operations in document["paths"].items():
                for operation in operations.values():
                    _complete(path, operation, schemas)
        return super().openapi()


def _complete(path: str, operation: dict[str, Any], schemas: dict[str, Any]) -> None:
    name = operation["operationId"]
    bodies = [operation.get("requestBody", {}), *operation["responses"].values()]
    for content in (body.get("content", {}) for body in bodies):
        for kind in content.values():
            kind["schema"] = _hoisted(kind.get("schema", {}), name, schemas)
    _, dialect = find(PARAMETER.sub("x", path))
    if dialect is not None:
        for status, description in REFUSALS.items():
            said = {"application/json": {"schema": dialect.errors}}
            operation["responses"][status] = {"description": description, "content": said}
    given = operation.setdefault("parameters", [])
    for parameter in PARAMETER.findall(path):
        if parameter not in [one["name"] for one in given]:
            schema = {"type": "string", "minLength": 1}
            given.append({"name": parameter, "in": "path", "required": True, "schema": schema})


def _hoisted(schema: dict[str, Any], name: str, schemas: dict[str, Any]) -> dict[str, Any]:
    """A schema whose own definitions are the document's, under the operation's name.

    Pydantic's stand within each schema, where no reference of the document finds them.
    """
    for defined, definition in schema.pop("$defs", {}).items():
        schemas[f"{name}.{defined}"] = _pointing(definition, name)
    pointing: dict[str, Any] = _pointing(schema, name)
    return pointing


def _pointing(node: Any, name: str) -> Any:
    if isinstance(node, Mapping):
        return {
            key: f"#/components/schemas/{name}.{value.removeprefix(DEFINED)}"
            if isinstance(value, str) and value.startswith(DEFINED)
            else _pointing(value, name)
            for key, value in node.items()
        }
    return [_pointing(one, name) for one in node] if isinstance(node, list) else node
