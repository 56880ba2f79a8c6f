"""Azure's blocklists, as its client keeps them: ``/contentsafety/text/blocklists…``."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Annotated, Any, Final, TypeVar
from urllib.parse import quote, urlencode

from fastapi import Request
from pydantic import Field, TypeAdapter
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from service.blocklists import (
    LONGEST_ITEM,
    Blocklist,
    BlocklistError,
    Blocklists,
    DamagedBlocklistError,
    Item,
    NoBlocklistError,
    words_of,
)
from service.dialects.dialect import Dialect, Loose, body_of, documented
from service.errors import RequestError

router = Dialect()
T = TypeVar("T")
LISTS: Final = "/contentsafety/text/blocklists"
LIST: Final = f"{LISTS}/{{name}}"
MOST_AT_ONCE: Final = 100
SIZE: Final = "maxpagesize"
VERSION: Final = "api-version"
Description = Annotated[str, Field(max_length=1_024)]
Id = Annotated[str, Field(min_length=1, max_length=64)]


class ListRequest(Loose):
    """The body of a ``PATCH`` of a list; its name stands in the address."""

    description: Description | None = None


class Entry(Loose):
    """A word or phrase; without an id it is given one."""

    text: str = Field(min_length=1, max_length=LONGEST_ITEM, pattern=r"\S")
    description: Description | None = None
    id: Id | None = Field(None, alias="blocklistItemId")
    pattern: bool | None = Field(None, alias="isRegex")


class AddRequest(Loose):
    """The body of ``:addOrUpdateBlocklistItems``."""

    items: list[Entry] = Field(alias="blocklistItems", min_length=1, max_length=MOST_AT_ONCE)


class RemoveRequest(Loose):
    """The body of ``:removeBlocklistItems``."""

    ids: list[Id] = Field(alias="blocklistItemIds", min_length=1, max_length=MOST_AT_ONCE)


DESCRIBE: Final = TypeAdapter(ListRequest)
ADD: Final = TypeAdapter(AddRequest)
REMOVE: Final = TypeAdapter(RemoveRequest)


@router.get(LISTS)
async def all_lists(request: Request) -> JSONResponse:
    """Every list."""
    lists = _lists(request)

    def found() -> Iterator[Blocklist]:
        for name in lists.names():
            # One that was deleted meanwhile, or whose file is damaged, is not all of them.
            with suppress(NoBlocklistError):
                try:
                    yield lists.get(name)
                except DamagedBlocklistError:
                    yield Blocklist(name)

    return JSONResponse({"value": [_list_json(one) for one in await _done(lambda: [*found()])]})


@router.post(f"{LIST}:addOrUpdateBlocklistItems", openapi_extra=documented(ADD))
async def add(request: Request) -> JSONResponse:
    """Add items to a list, or replace them."""
    body = await body_of(request, ADD)
    _check_items(body.items)
    items = [Item(one.id or "", one.text, one.description) for one in body.items]
    kept = await _done(lambda: _lists(request).add(request.path_params["name"], items))
    return JSONResponse({"blocklistItems": [_item_json(item) for item in kept]})


@router.post(f"{LIST}:removeBlocklistItems", status_code=204, openapi_extra=documented(REMOVE))
async def remove(request: Request) -> Response:
    """Remove items from a list."""
    body = await body_of(request, REMOVE)
    await _done(lambda: _lists(request).remove(request.path_params["name"], body.ids))
    return Response(status_code=204)


@router.get(
    f"{LIST}/blocklistItems",
    openapi_extra={
        "parameters": [
            {"name": name, "in": "query", "schema": {"type": "integer", "minimum": 0}}
            for name in ("skip", "top", SIZE)
        ]
    },
)
async def items(request: Request) -> JSONResponse:
    """The items of a list: ``top`` of them, after ``skip``, so many a page."""
    skip, top, size = (_number(request, name) for name in ("skip", "top", SIZE))
    if size == 0:
        raise RequestError(f"{SIZE}: must be at least 1", param=SIZE)
    found = await _done(lambda: _lists(request).get(request.path_params["name"]))
    kept = list(found.items.values())[skip or 0 :][:top]
    page = kept[:size]
    answer: dict[str, Any] = {"value": [_item_json(item) for item in page]}
    if size is not None and len(kept) > size:
        asked: dict[str, Any] = {SIZE: size, "skip": (skip or 0) + size}
        asked |= {} if top is None else {"top": top - size}
        if (version := request.query_params.get(VERSION)) is not None:
            asked[VERSION] = version
        # Without scheme and host, which a proxy may have changed; clients put theirs before it.
        answer["nextLink"] = f"{quote(request.scope['path'])}?{urlencode(asked)}"
    return JSONResponse(answer)


@router.get(f"{LIST}/blocklistItems/{{item}}")
async def item(request: Request) -> JSONResponse:
    """One item of a list."""
    name, wanted = request.path_params["name"], request.path_params["item"]

    def found() -> Item:
        if (item := _lists(request).get(name).items.get(wanted)) is None:
            raise NoBlocklistError("the list has no such item", "blocklistItemId")
        return item

    return JSONResponse(_item_json(await _done(found)))


@router.get(LIST)
async def one_list(request: Request) -> JSONResponse:
    """One list."""
    found = await _done(lambda: _lists(request).get(request.path_params["name"]))
    return JSONResponse(_list_json(found))


@router.patch(LIST, openapi_extra=documented(DESCRIBE), responses={201: {"description": "New."}})
async def describe(request: Request) -> JSONResponse:
    """Create a list, or describe it anew."""
    body = await body_of(request, DESCRIBE)
    name = request.path_params["name"]
    keep = "description" not in body.model_fields_set
    found, new = await _done(lambda: _lists(request).put(name, body.description, keep))
    return JSONResponse(_list_json(found), 201 if new else 200)


@router.delete(LIST, status_code=204)
async def delete(request: Request) -> Response:
    """Forget a list."""
    await _done(lambda: _lists(request).delete(request.path_params["name"]))
    return Response(status_code=204)


def _lists(request: Request) -> Blocklists:
    found = request.app.state.blocklists
    assert isinstance(found, Blocklists)
    return found


async def _done(work: Callable[[], T]) -> T:
    """What reads and writes files, aside.

    Raises:
        RequestError: 404 where a list or an item is not there, 400 over a limit, 503 where a list's
            file is damaged, or the folder cannot be written.
    """
    try:
        return await run_in_threadpool(work)
    except NoBlocklistError as error:
        raise _refused(error, "NotFound", 404) from None
    except DamagedBlocklistError as error:
        raise _refused(error, "ServiceUnavailable", 503) from None
    except BlocklistError as error:
        raise _refused(error, "InvalidRequestBody", 400) from None


def _refused(error: BlocklistError, code: str, status: int) -> RequestError:
    said = str(error) if error.field is None else f"{error.field}: {error}"
    return RequestError(said, param=error.field, code=code, status=status)


def _check_items(items: Sequence[Entry]) -> None:
    """Refuse what would not be found as it is meant, or would be lost.

    Raises:
        RequestError: naming the item.
    """
    seen = set[str]()
    for n, one in enumerate(items):
        field = f"blocklistItems[{n}]"
        if one.pattern:
            field += ".isRegex"
            raise RequestError(
                f"{field}: items are words and phrases, not regular expressions", param=field
            )
        if one.id in seen:
            field += ".blocklistItemId"
            raise RequestError(f"{field}: stands there twice", param=field)
        if one.id is not None:
            seen.add(one.id)


def _number(request: Request, name: str) -> int | None:
    given = request.query_params.get(name)
    if given is None:
        return None
    if not given.isdecimal() or len(given) > 9:
        raise RequestError(f"{name}: must be a whole number", param=name)
    return int(given)


def _list_json(found: Blocklist) -> dict[str, Any]:
    return {"blocklistName": found.name, "description": found.description}


def _item_json(item: Item) -> dict[str, Any]:
    return {"blocklistItemId": item.id, "description": item.description, "text": item.text}


async def matches(request: Request, names: list[str], text: str) -> list[dict[str, str]]:
    """What a text has of some lists, as ``text:analyze`` says it.

    Raises:
        RequestError: 404 where there is no such list.
    """
    lists = _lists(request)
    # Each once, by where it stands.
    first = {name: names.index(name) for name in dict.fromkeys(names)}

    def found() -> list[dict[str, str]]:
        words = words_of(text)
        return [
            {
                "blocklistName": name,
                "blocklistItemId": item.id,
                "blocklistItemText": item.text,
            }
            for name, n in first.items()
            for item in _named(lists, name, f"blocklistNames[{n}]").found(words)
        ]

    return await _done(found)


def _named(lists: Blocklists, name: str, field: str) -> Blocklist:
    """A list that a field of a body names."""
    try:
        return lists.get(name)
    except BlocklistError as error:
        error.field = field
        raise
