"""A client for a running service; needs ``pip install tamis[client]`` (httpx) and nothing else.

from tamis.client import Client

with Client("http://localhost:8000") as tamis:
    if tamis.moderate("…", deadline=0.2).action == "block":
        …
"""

from tamis.client.answers import FieldAnswer, Moderation, Refusal
from tamis.client.asgi import ModerationMiddleware
from tamis.client.client import AsyncClient, Client
from tamis.client.errors import ApiError, ClientError, LateError, UnreachableError
from tamis.client.items import Conversation, Document, Exchange, Explain, Item, Plain

__all__ = [
    "ApiError",
    "AsyncClient",
    "Client",
    "ClientError",
    "Conversation",
    "Document",
    "Exchange",
    "Explain",
    "FieldAnswer",
    "Item",
    "LateError",
    "Moderation",
    "ModerationMiddleware",
    "Plain",
    "Refusal",
    "UnreachableError",
]
