"""What does an engine itself say of how it reads a prompt: tokens, template, sampling defaults, context?

Asks the replicas that the registry names, and no other address: `/tokenize` and `/v1/chat/completions/render`
are vLLM's and no part of what the proxy offers. An engine that lacks them is not at fault: what it does not
answer is noted with the reason, and the checks that need it are left unchecked.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
import orjson

from evaluators.admission import MAX_ANSWER
from evaluators.canonical import content_hash
from evaluators.preflight.probes import TEXTS, Probe
from experiments.tls import over_tls

#: vLLM 0.32 keeps its render endpoints shut unless it is started so.
_SCALE_OUT: Final = " (vLLM renders when started with --enable-scale-out)"
#: No engine has more sampling parameters, none with a value of more characters.
_MOST_SETTINGS: Final = 200
_LONGEST_SETTING: Final = 1000
#: Of a rendered request: what is no default of the model but this request's own.
_OF_REQUEST: Final = frozenset(("seed", "extra_args", "output_kind", "skip_clone", "detokenize", "bad_words"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """A prompt as the model reads it: token ids, and their texts if the engine gives them."""

    ids: tuple[int, ...]
    texts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """What one version's engine said. `missing` has, by path, why a question was not answered."""

    engine: str
    engine_version: str | None = None
    max_model_len: int | None = None
    texts: Mapping[str, Tokens] = field(default_factory=dict)
    chats: Mapping[str, Tokens] = field(default_factory=dict)
    rendered: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    sampling: Mapping[str, Any] | None = None
    missing: Mapping[str, str] = field(default_factory=dict)

    def fingerprint(self, artefacts: Mapping[str, str]) -> str | None:
        """A hash of all that is known of how this version reads and samples; None if nothing is."""
        known = {
            "max_model_len": self.max_model_len,
            "texts": {name: tokens.ids for name, tokens in self.texts.items()} or None,
            "chats": {name: tokens.ids for name, tokens in self.chats.items()} or None,
            "sampling": None if self.sampling is None else dict(self.sampling),
            "artefacts": dict(artefacts) or None,
        }
        if all(value is None for value in known.values()):
            return None
        return content_hash({"engine": self.engine, "engine_version": self.engine_version, **known})


class NotAnswered(Exception):
    """The engine did not answer a question; the text says how. `status`: that of its refusal, if it spoke."""

    def __init__(self, why: str, status: int | None = None) -> None:
        super().__init__(why)
        self.status = status


class EngineClient:
    """One replica of a version, asked directly. Use as an async context manager."""

    def __init__(self, *, replica: str, served_name: str, engine: str, timeout_s: float = 20.0) -> None:
        self._served_name, self._engine = served_name, engine
        self._timeout_s = timeout_s
        self._silent = ""  # why nothing more is asked
        self._client = httpx.AsyncClient(
            base_url=replica,
            timeout=None,  # a question is timed as a whole
            headers={"accept-encoding": "identity"},  # what is not packed cannot swell
            follow_redirects=False,  # the registry names where to ask, and nobody else does
            trust_env=False,
            verify=over_tls(replica),
            limits=httpx.Limits(max_connections=4),
        )

    async def __aenter__(self) -> EngineClient:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._client.aclose()

    async def facts(self, probes: Sequence[Probe]) -> EngineFacts:
        """Everything this engine tells. Raises nothing."""
        missing: dict[str, str] = {}

        async def known(path: str, asking: Any) -> Any:
            try:
                return await asking
            except NotAnswered as error:
                missing.setdefault(path, str(error))
                return None

        version, card, sampling = await asyncio.gather(
            known("/version", self._version()),
            known("/v1/models", self._max_model_len()),
            known("/v1/chat/completions/render", self._sampling()),
        )
        texts = {
            name: await known("/tokenize", self.tokens({"prompt": text})) for name, text in TEXTS.items()
        }
        chats, rendered = {}, {}
        for probe in probes:
            if texts and all(tokens is None for tokens in texts.values()) and sampling is None:
                break  # neither door is there: asking on would only wait
            chats[probe.name] = await known(f"/tokenize ({probe.name})", self.tokens(chat(probe)))
            rendered[probe.name] = await known(f"/render ({probe.name})", self._rendered(probe))
        return EngineFacts(
            engine=self._engine,
            engine_version=version,
            max_model_len=card or None,
            texts=_present(texts),
            chats=_present(chats),
            rendered=_present(rendered),
            sampling=sampling,
            missing=missing,
        )

    async def tokens(self, question: Mapping[str, Any]) -> Tokens:
        """The tokens of a prompt or of a chat. Raises NotAnswered."""
        body = {"model": self._served_name, "return_token_strs": True, **question}
        answer = await self._post("/tokenize", body)
        ids = _ids(answer.get("tokens"))
        texts = answer.get("token_strs")
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            texts = ()
        return Tokens(ids=ids, texts=tuple(texts))

    async def _version(self) -> str | None:
        version = (await self._get("/version")).get("version")
        return version[:_LONGEST_SETTING] if isinstance(version, str) else None

    async def _max_model_len(self) -> int | None:
        cards = (await self._get("/v1/models")).get("data")
        for card in cards if isinstance(cards, list) else []:
            if isinstance(card, Mapping) and card.get("id") == self._served_name:
                length = card.get("max_model_len")
                if isinstance(length, int) and length > 0:
                    return length
        raise NotAnswered("GET /v1/models gives no max_model_len")

    async def _sampling(self) -> dict[str, Any]:
        """How a request that says nothing of it is sampled: vLLM puts the model's generation_config in."""
        asked = {"model": self._served_name, "messages": [{"role": "user", "content": "x"}]}
        answer = await self._post("/v1/chat/completions/render", asked)
        params = answer.get("sampling_params")
        if isinstance(params, Mapping) and isinstance(params.get("sampling_params"), Mapping):
            params = params["sampling_params"]  # vLLM 0.32 wraps them once more
        if not isinstance(params, Mapping):
            raise NotAnswered("the rendered request has no sampling_params")
        if len(params) > _MOST_SETTINGS or any(_overlong(text) for one in params.items() for text in one):
            raise NotAnswered("the rendered request's sampling_params are larger than any engine's")
        # max_tokens without a default is what the context leaves: max_model_len again.
        return {
            str(name): value for name, value in params.items() if name not in _OF_REQUEST | {"max_tokens"}
        }

    async def _rendered(self, probe: Probe) -> tuple[int, ...]:
        answer = await self._post("/v1/chat/completions/render", probe.body(self._served_name))
        return _ids(answer.get("token_ids"))

    async def _get(self, path: str) -> dict[str, Any]:
        return await self._answer("GET", path, None)

    async def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return await self._answer("POST", path, json.dumps(body, ensure_ascii=False).encode())

    async def _answer(self, method: str, path: str, content: bytes | None) -> dict[str, Any]:
        if self._silent:
            raise NotAnswered(self._silent)
        headers = {"content-type": "application/json"} if content else {}
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._client.stream(method, path, content=content, headers=headers) as response,
            ):
                status = response.status_code
                if status != httpx.codes.OK:
                    hint = _SCALE_OUT if path.endswith("/render") and status == 403 else ""
                    raise NotAnswered(f"{method} {path} answers {status}{hint}", status)
                taken = bytearray()
                async for piece in response.aiter_raw():
                    taken += piece
                    if len(taken) > MAX_ANSWER:
                        raise NotAnswered(f"{method} {path} answers with more than {MAX_ANSWER} bytes")
            found = orjson.loads(taken)
        except TimeoutError:
            self._silent = f"{method} {path}: no whole answer within {self._timeout_s:g} s"
            raise NotAnswered(self._silent) from None
        except (httpx.HTTPError, ValueError) as error:
            raise NotAnswered(f"{method} {path}: {type(error).__name__}") from None
        if not isinstance(found, dict):
            raise NotAnswered(f"{method} {path} answers with no JSON object")
        return found


def chat(probe: Probe) -> dict[str, Any]:
    """The probe as /tokenize takes it."""
    asked: dict[str, Any] = {"messages": list(probe.messages), "add_generation_prompt": True}
    return asked | ({"tools": list(probe.tools)} if probe.tools else {})


def _overlong(value: Any) -> bool:
    try:
        return len(str(value)) > _LONGEST_SETTING
    except RecursionError:
        return True


def _ids(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(isinstance(one, int) for one in value):
        raise NotAnswered("the answer has no token ids")
    return tuple(value)


def _present(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
