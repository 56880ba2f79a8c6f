"""The naive baseline: FastAPI around a transformers pipeline, as tutorials have it."""

from typing import Any

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel
from transformers import pipeline

# The model folder is the working directory.
classify = pipeline(
    "text-classification", model=".", top_k=None, function_to_apply="sigmoid", device="cpu"
)
app = FastAPI()


class Question(BaseModel):
    """A text to judge."""

    text: str


@app.post("/classify")
async def answer(question: Question) -> list[dict[str, Any]]:
    """Every label's score, highest first."""
    scores = await run_in_threadpool(classify, [question.text], truncation=True)
    return list(scores[0])
