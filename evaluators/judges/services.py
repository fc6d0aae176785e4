"""Which models may the evaluators of this set ask, when these versions are under test?

Never the model under test itself: a judge that is the candidate, the control, another version of their model,
or served where they are, is refused before anything is asked.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from evaluators.errors import RunRefused
from evaluators.golden import GoldenSet, JudgeChoice
from evaluators.judges.cache import ScoreCache
from evaluators.judges.provider import ProviderJudge
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
) -> AsyncIterator[Services]:
    """The judge and the embedder that the set declares, until the block ends.

    Raises RunRefused when the judge is under test itself, UnknownVersion when the registry has no such judge.
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
            judge = await stack.enter_async_context(
                ProxiedJudge(
                    base_url=proxy_url,
                    model=choice.model,
                    version=subject.version,
                    token=token,
                    api_key=api_key,
                    max_tokens=choice.max_tokens,
                    concurrency=choice.concurrency,
                    timeout_s=choice.timeout_s,
                )
            )
        elif choice.provider is not None:
            refuse_self(choice, None, subjects)
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
            mend = "name another one under judge: in set.yaml"
            raise RunRefused(f"the judge must be another model: {why}; {mend}")


def _place(address: str) -> str:
    return address.rstrip("/").removesuffix("/v1").casefold()
