"""Which models may the evaluators of this set ask, when these versions are under test?

Never the model under test itself: a judge that is the candidate, the control, another version of their model,
or served where they are, is refused before anything is asked.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from evaluators.errors import RunRefused
from evaluators.golden import GoldenSet, JudgeChoice
from evaluators.judges.cache import ScoreCache
from evaluators.judges.provider import ProviderJudge, priced
from evaluators.judges.proxied import HttpEmbedder, ProxiedJudge
from evaluators.ledger import GoldenLedger, Subject
from evaluators.models import NO_SERVICES, ChatModel, Services

EMBEDDINGS_KEY: Final = "TURNOUT_EMBEDDINGS_KEY"


@asynccontextmanager
async def open_services(
    golden: GoldenSet,
    subjects: Sequence[Subject],
    ledger: GoldenLedger,
    *,
    proxy_url: str,
    token: str,
    api_key: str | None = None,
    cache: Path | None = None,
    in_usd: bool = False,
) -> AsyncIterator[Services]:
    """The judge and the embedder that the set declares, until the block ends.

    Raises RunRefused when the judge is under test itself, or nobody knows what it costs although that is to
    be bound (`in_usd`), UnknownVersion when the registry has no such judge.
    """
    choice = golden.judge
    if choice is None:
        yield NO_SERVICES
        return
    async with AsyncExitStack() as stack:
        judge: ChatModel | None = None
        if choice.model is not None:
            subject = ledger.subject(choice.model, choice.version)
            refuse_self(choice, subject, subjects)
            if in_usd:
                await _refuse_unpriced(f"{subject.model} version {subject.version}", subject.provider)
            judge = await stack.enter_async_context(
                ProxiedJudge(
                    base_url=proxy_url,
                    model=choice.model,
                    version=subject.version,
                    token=token,
                    api_key=api_key,
                    provider=subject.provider,
                    max_tokens=choice.max_tokens,
                    concurrency=choice.concurrency,
                    timeout_s=choice.timeout_s,
                )
            )
        elif choice.provider is not None:
            refuse_self(choice, None, subjects)
            if in_usd:
                await _refuse_unpriced(choice.provider, choice.provider)
            judge = await stack.enter_async_context(
                ProviderJudge(
                    model=choice.provider,
                    api_base=choice.api_base,
                    max_tokens=choice.max_tokens,
                    concurrency=choice.concurrency,
                    timeout_s=choice.timeout_s,
                )
            )
        embedder = None
        if choice.embeddings is not None and choice.embeddings_base is not None:
            embedder = await stack.enter_async_context(
                HttpEmbedder(
                    base_url=choice.embeddings_base,
                    model=choice.embeddings,
                    api_key=os.environ.get(EMBEDDINGS_KEY),
                    concurrency=choice.concurrency,
                    timeout_s=choice.timeout_s,
                )
            )
        kept = stack.enter_context(ScoreCache(cache)) if cache is not None and judge is not None else None
        yield Services(judge=judge, embedder=embedder, cache=kept)


async def _refuse_unpriced(judge: str, provider: str | None) -> None:
    if provider is None or not await asyncio.to_thread(priced, provider):
        raise RunRefused(
            f"usd_per_day cannot be kept, nobody knows what the judge {judge} costs: leave it out (per_day "
            "bounds the scores), or name a judge at a provider whose prices litellm has"
        )


def refuse_self(choice: JudgeChoice, judge: Subject | None, subjects: Sequence[Subject]) -> None:
    """Raise RunRefused when the judge is one of the subjects, of their model, or served at their address or
    as the same model of a provider."""
    theirs = choice.provider if choice.api_base is None else None
    if judge is not None:
        theirs = judge.provider
    for subject in subjects:
        why = None
        if judge is not None and judge.model == subject.model:
            why = f"{judge.model} is the model under test"
        elif judge is not None and judge.endpoint == subject.endpoint:
            why = f"{judge.model} version {judge.version} is served where the model under test is"
        elif theirs is not None and theirs == subject.provider:
            why = f"{theirs} is version {subject.version} of {subject.model}, which is under test"
        elif choice.api_base is not None and _place(choice.api_base) in map(_place, subject.addresses):
            why = f"{choice.api_base} serves version {subject.version}, which is under test"
        if why is not None:
            raise RunRefused(f"the judge must be another model: {why}; name another one under judge:")


def _place(address: str) -> str:
    return address.rstrip("/").removesuffix("/v1").casefold()
