"""What does a request body ask of the engine? Checked as vLLM checks it, refused in vLLM's words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from .answers import Question, tokens
from .documents import CHAT, EMBEDDINGS, error
from .further import MESSAGES, RERANK, RESPONSES, SCORE
from .profile import Profile


class EngineError(Exception):
    """The engine answers with an error: `body` is JSON in vLLM's shape."""

    def __init__(
        self,
        status: int,
        kind: str,
        message: str,
        param: str | None = None,
        headers: tuple[bytes, ...] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers
        self.body = error(status, kind, message, param)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One checked request. `prompts` holds one entry but for completions and embeddings of a list."""

    path: str
    model: str
    stream: bool
    document: Mapping[str, Any]
    prompts: tuple[str, ...]
    question: Question
    n: int
    limit: int
    stops: tuple[str, ...]
    prompt_tokens: int
    logprobs: bool

    def option(self, name: str) -> bool:
        """A flag of `stream_options`."""
        options = self.document.get("stream_options")
        return isinstance(options, dict) and options.get(name) is True


_LIMITS: Final = ("max_completion_tokens", "max_tokens", "max_output_tokens")
_CONTENT: Final = {CHAT: "messages", MESSAGES: "messages", EMBEDDINGS: "input", RESPONSES: "input"}
#: Where a conversation is answered with prose or a call.
_TALKS: Final = (CHAT, MESSAGES, RESPONSES)
_POOLING: Final = (EMBEDDINGS, RERANK, SCORE)
_SCORE_SIDES: Final = (("queries", "text_1"), ("documents", "text_2"))


def _bad(message: str, param: str | None = None) -> EngineError:
    return EngineError(400, "BadRequestError", message, param)


def _invalid(detail: str, param: str | None = None) -> EngineError:
    """What pydantic refuses."""
    return EngineError(400, "Bad Request", f"1 validation error:\n  {detail}", param)


def parse(path: str, body: bytes, profile: Profile) -> Ask:
    """Read and check a body. Raises EngineError."""
    try:
        document = orjson.loads(body)
    except ValueError as problem:
        raise _invalid(f"{{'type': 'json_invalid', 'msg': 'JSON decode error: {problem}'}}") from None
    if not isinstance(document, dict):
        raise _invalid("{'type': 'dict_type', 'loc': ('body',)}")
    prompts, question = _content(path, document)
    limit = next((document[name] for name in _LIMITS if document.get(name)), None)
    _whole_number(document, "max_tokens", 1)
    n = _whole_number(document, "n", 1) or 1
    count = sum(len(tokens(prompt)) for prompt in prompts) + 4 * (path in _TALKS)
    if count >= profile.max_model_len:
        raise _bad(
            f"This model's maximum context length is {profile.max_model_len} tokens. However, your prompt "
            f"contains {count} input tokens, which exceeds this limit even without any output tokens. "
            "Please reduce the length of the input prompt.",
            "input_tokens",
        )
    stop = document.get("stop") or ()
    return Ask(
        path=path,
        model=str(document.get("model") or profile.name),
        stream=document.get("stream") is True and path not in _POOLING,
        document=document,
        prompts=prompts,
        question=question,
        n=n,
        limit=min(limit or profile.max_model_len, profile.max_model_len - count),
        stops=(stop,) if isinstance(stop, str) else tuple(map(str, stop)),
        prompt_tokens=count,
        logprobs=bool(document.get("logprobs")),
    )


def _whole_number(document: Mapping[str, Any], name: str, least: int) -> int | None:
    value = document.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise _invalid(f"{{'type': 'int_type', 'loc': ('body', '{name}')}}", name)
    if value < least:
        raise _bad(f"{name} must be at least {least}, got {value}.", name)
    return value


def _content(path: str, document: Mapping[str, Any]) -> tuple[tuple[str, ...], Question]:
    if path in (RERANK, SCORE):
        prompts = tuple(text for side in sides(path, document) for text in side)
        return prompts, Question(prompt=prompts[0])
    name = _CONTENT.get(path, "prompt")
    content = document.get(name)
    if path == RESPONSES and isinstance(content, str):
        content = [{"role": "user", "content": content}]
    if content is None or (path in _TALKS and not (isinstance(content, list) and content)):
        problem = {"type": "missing", "loc": ("body", name), "msg": "Field required"}
        raise _invalid(str(problem), name)
    if path not in _TALKS:
        prompts = _texts(content)
        return prompts, Question(prompt=prompts[0] if prompts else "")
    texts = [_text(message.get("content")) for message in content if isinstance(message, dict)]
    question = Question(
        prompt=texts[-1] if texts else "",
        schema=_schema(_format(document)),
        call=_required_call(document),
    )
    return ("\n".join(texts),), question


def sides(path: str, document: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The two sides of what is scored: a query and documents, or texts and texts. Raises EngineError."""
    found = []
    for names in (("query",), ("documents",)) if path == RERANK else _SCORE_SIDES:
        content = next((document[name] for name in names if name in document), None)
        if not content:
            problem = f"{{'type': 'missing', 'loc': ('body', '{names[0]}')}}"
            raise _bad(f"1 validation error:\n  {problem}", names[0])
        found.append(_texts(content))
    return found[0], found[1]


def _texts(content: Any) -> tuple[str, ...]:
    """Strings or token ids, one or many."""
    if isinstance(content, str):
        return (content,)
    if isinstance(content, list) and content and all(isinstance(token, int) for token in content):
        return (" ".join(map(str, content)),)
    if isinstance(content, list):
        return tuple(text for part in content for text in _texts(part))
    raise _invalid("{'type': 'string_type'}", "prompt")


def _text(content: Any) -> str:
    if isinstance(content, list):
        parts = (part.get("text") for part in content if isinstance(part, dict))
        return "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def _format(document: Mapping[str, Any]) -> Any:
    """The format that is asked for: Responses has it inside `text`."""
    text = document.get("text")
    return text.get("format") if isinstance(text, dict) else document.get("response_format")


def _schema(wanted: Any) -> Mapping[str, Any] | None:
    if not isinstance(wanted, dict):
        return None
    if wanted.get("type") == "json_object":
        return {"type": "object", "properties": {"answer": {"type": "string"}}}
    schema = (wanted.get("json_schema") or wanted).get("schema")  # Responses does not nest it
    return schema if isinstance(schema, dict) else None


def _required_call(document: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]] | None:
    """The function that `tool_choice` makes the model call: the named one, or the first if any will do."""
    functions = functions_of(document)
    choice = document.get("tool_choice")
    if isinstance(choice, dict) and choice.get("type") != "any":
        wanted = (choice.get("function") or choice).get("name")
        return next(((name, schema) for name, schema in functions if name == wanted), None)
    must = choice == "required" or isinstance(choice, dict)
    return functions[0] if must and functions else None


def functions_of(document: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Name and argument schema of the functions that a request offers."""
    found = []
    for tool in document.get("tools") or ():
        # Chat nests the function; Responses and Messages do not, and Messages says `input_schema`.
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if isinstance(function, dict) and isinstance(function.get("name"), str):
            schema = function.get("parameters") or function.get("input_schema") or {"type": "object"}
            found.append((function["name"], schema))
    return found


def acts(document: Mapping[str, Any]) -> bool:
    """Whether a server would do more than answer: keep the exchange, or run a tool itself."""
    tools = document.get("tools")
    runs = isinstance(tools, list) and any(
        isinstance(tool, dict) and tool.get("type", "function") != "function" for tool in tools
    )
    return document.get("store") is True or runs
