"""How do chat/completions and the older completions speak?"""

from __future__ import annotations

from typing import Final

from .answer import Answer, Choice, Dialect, Payload, answered_before, field_asked, index, last_asked, text


def _chat_piece(answer: Answer, payload: Payload) -> bool:
    usage = payload.get("usage")
    if usage:
        answer.usage = usage
    content = False
    for part in payload.get("choices") or ():
        choice = answer.choice(index(part.get("index")))
        delta = part.get("delta") or {}
        said = delta.get("content")
        if len(delta) == 1 and type(said) is str and said:  # nearly every piece is just this
            choice.text.append(said)
            content = True
        else:
            content = _message(choice, delta) or content
        finish = part.get("finish_reason")
        if finish:
            choice.finish = text(finish)
    return content


def _chat_whole(answer: Answer, payload: Payload) -> None:
    answer.usage = payload.get("usage")
    for part in payload["choices"]:
        choice = answer.choice(index(part.get("index")))
        _message(choice, part["message"])
        choice.finish = text(part.get("finish_reason")) or None


def said_in(message: Payload) -> tuple[str, str]:
    """What a message says, or a piece of one, and what is thought in it. Raises one of MISREAD.

    Content is a text, or a list of parts: Mistral's reasoning models send both, in one stream
    (docs.mistral.ai, ThinkChunk and TextChunk). A part that is neither, such as a reference, says nothing.
    """
    content = message.get("content") or message.get("refusal")
    if not isinstance(content, list):
        return text(content), ""
    said = [text(part.get("text")) for part in content]
    thought = [part["thinking"] for part in content if part.get("type") == "thinking"]
    return "".join(said), "".join(text(piece.get("text")) for pieces in thought for piece in pieces)


def _message(choice: Choice, message: Payload) -> bool:
    """Add a message, or a piece of one, to a choice; whether it held any content."""
    said, thought = said_in(message)
    if said:
        choice.text.append(said)
    # vLLM says `reasoning` since 0.12 and `reasoning_content` before, as DeepSeek and SGLang do.
    reasoning = text(message.get("reasoning_content") or message.get("reasoning")) or thought
    if reasoning:
        choice.reasoning.append(reasoning)
    calls = message.get("tool_calls")
    if calls:
        for position, call in enumerate(calls):
            function = call.get("function") or {}
            number = _number(choice, call, function, position)
            choice.call(number, call.get("id"), function.get("name"), function.get("arguments"))
    elif message.get("function_call"):
        function = message["function_call"]
        choice.call(0, None, function.get("name"), function.get("arguments"))
        calls = True
    return bool(said or reasoning or calls)


def _number(choice: Choice, call: Payload, function: Payload, position: int) -> int:
    """Which of the choice's calls a piece belongs to.

    Of calls in parallel Gemini leaves the index out and Ollama says 0 for each: another id, with a name,
    begins a call of its own.
    """
    given, id_ = call.get("index"), call.get("id")
    number = position if given is None else index(given)
    known = choice.calls.get(number)
    if known is None or not (id_ and known[0] and function.get("name")) or known[0] == id_:
        return number
    same = (other for other, parts in choice.calls.items() if parts[0] == id_)
    return next(same, max(choice.calls) + 1)


def _completion_piece(answer: Answer, payload: Payload) -> bool:
    answer.usage = payload.get("usage") or answer.usage
    content = False
    for part in payload.get("choices") or ():
        choice = answer.choice(index(part.get("index")))
        said = text(part.get("text"))
        choice.text.append(said)
        content = content or bool(said)
        choice.finish = text(part.get("finish_reason")) or choice.finish
    return content


def _completion_whole(answer: Answer, payload: Payload) -> None:
    answer.usage = payload.get("usage")
    for part in payload["choices"]:
        choice = answer.choice(index(part.get("index")))
        choice.text.append(text(part["text"]))
        choice.finish = text(part.get("finish_reason")) or None


CHAT: Final = Dialect(
    piece=_chat_piece,
    whole=_chat_whole,
    asked=lambda request: last_asked(request["messages"]),
    later=lambda request: answered_before(request["messages"]),
    done=True,
)
COMPLETIONS: Final = Dialect(
    piece=_completion_piece, whole=_completion_whole, asked=field_asked("prompt"), done=True
)
