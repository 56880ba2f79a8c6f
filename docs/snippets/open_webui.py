"""
title: Tamis
description: Moderates what users ask and what models answer.
requirements: httpx
"""

# A filter function of Open WebUI. It raises where the policy blocks, which the user sees.

from typing import Any

import httpx
from pydantic import BaseModel, Field


class Filter:
    class Valves(BaseModel):
        url: str = Field("http://tamis:8000", description="Where Tamis is.")
        key: str = Field("", description="Its key, where keys are in force.")
        policy: str = Field("", description="A policy by name; empty: the key's, or the default.")
        seconds: float = Field(2.0, description="How long to wait for a verdict.")
        fail_open: bool = Field(False, description="Let through what got no verdict.")

    def __init__(self) -> None:
        self.valves = self.Valves()

    async def inlet(self, body: dict[str, Any]) -> dict[str, Any]:
        """Before a model is asked."""
        await self._check(body["messages"], "prompt")
        return body

    async def outlet(self, body: dict[str, Any]) -> dict[str, Any]:
        """Once it has answered."""
        await self._check(body["messages"], "response")
        return body

    async def _check(self, messages: list[dict[str, Any]], side: str) -> None:
        turns = [{"role": m["role"], "content": _text(m.get("content"))} for m in messages]
        asked = {"input": {"messages": turns}, "judge": [side]}
        if self.valves.policy:
            asked["policy"] = self.valves.policy
        try:
            async with httpx.AsyncClient(timeout=self.valves.seconds) as http:
                answer = await http.post(
                    f"{self.valves.url}/moderate",
                    json=asked,
                    headers={"x-api-key": self.valves.key} if self.valves.key else {},
                )
            # An answer without a word, or of an image alone.
            if answer.status_code == 400 and answer.json()["error"]["code"] == "nothing_to_judge":
                return
            answer.raise_for_status()
        except httpx.HTTPError:
            if self.valves.fail_open:
                return
            raise Exception("Moderation is not available at present.") from None
        if answer.json()["action"] == "block":
            raise Exception("This was blocked by the moderation policy.")


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "\n".join(part.get("text", "") for part in content)
    return content or ""
