"""LangChain's `ChatOpenAI` against the proxy: only the base URL is another."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from .conftest import MODEL, Stack

langchain_openai = pytest.importorskip("langchain_openai")
QUESTION = "Where is my parcel?"


@pytest.fixture
def chat(stack: Stack):
    return langchain_openai.ChatOpenAI(
        model=MODEL, base_url=stack.base_url, api_key="sk-any", max_retries=0, timeout=10
    )


def test_invoke(chat) -> None:
    message = chat.invoke(QUESTION)
    assert "parcel" in message.content
    assert message.response_metadata["finish_reason"] == "stop"
    assert message.usage_metadata["output_tokens"] > 0


def test_stream(chat) -> None:
    pieces = list(chat.stream(QUESTION))
    assert len(pieces) > 3
    assert "".join(piece.content for piece in pieces) == chat.invoke(QUESTION).content


async def test_asynchronously(chat) -> None:
    whole = await chat.ainvoke(QUESTION)
    assert "".join([piece.content async for piece in chat.astream(QUESTION)]) == whole.content
    await chat.root_async_client.close()


class GetOrder(BaseModel):
    """Look an order up."""

    order_id: int


def test_tools(chat) -> None:
    bound = chat.bind_tools([GetOrder], tool_choice="required")
    (call,) = bound.invoke(QUESTION).tool_calls
    assert call["name"] == "GetOrder"
    assert isinstance(call["args"]["order_id"], int)
    gathered = None
    for piece in bound.stream(QUESTION):
        gathered = piece if gathered is None else gathered + piece
    assert gathered.tool_calls[0]["args"] == call["args"]


def test_structured_output(chat) -> None:
    assert isinstance(chat.with_structured_output(GetOrder).invoke(QUESTION), GetOrder)
