"""What could be a key is blotted out, what names a model is not."""

from __future__ import annotations

import random
import string
import time

import pytest

from experiments.blotting import blotted

KEYS = (
    "sk-proj-abcd",
    "sk-ant-api03-AbCdEf0123456789",
    "AIzaSyD-9tSrke72PouQMnMX-a7eZSW0jkFMBWY",
    "AKIAIOSFODNN7EXAMPLE",
    "gsk_4f9a8b7c6d5e4f3a2b1c",
    "canary-0123456789-sEcReT",
    "0123456789abcdef0123456789abcdef",
    "xai-Qw3rTy7uI0pAsD4fGhJkL",
)
MODELS = (
    "anthropic.claude-3-sonnet-20240229-v1:0",
    "us.anthropic.claude-3-7-sonnet-20250219-v1:0",
    "claude-3-5-sonnet-20241022",
    "gpt-4o-mini-2024-07-18",
    "gpt-4o-realtime-preview-2024-12-17",
    "meta-llama/Llama-3.1-70B-Instruct-Turbo",
    "Qwen/Qwen3-235B-A22B-Instruct-2507-FP8",
    "mistralai/Mixtral-8x22B-Instruct-v0.1",
    "gemini-2.5-flash-lite-preview-06-17",
    "llama3-groq-70b-8192-tool-use-preview",
    "accounts/fireworks/models/deepseek-r1-distill-qwen-14b",
)


@pytest.mark.parametrize("key", KEYS)
def test_a_key_is_blotted_out(key: str) -> None:
    assert blotted(f"no {key} is taken") == "no [secret] is taken"


@pytest.mark.parametrize("model", MODELS)
def test_a_models_name_is_not(model: str) -> None:
    said = f"The model `{model}` does not exist or you do not have access to it."
    assert blotted(said) == said


@pytest.mark.parametrize(
    "alphabet",
    ["0123456789abcdef", string.ascii_letters + string.digits, string.ascii_letters + "0123456789-_"],
)
def test_random_keys_are_blotted_out_whatever_their_alphabet(alphabet: str) -> None:
    chance = random.Random(7)
    keys = ["".join(chance.choices(alphabet, k=32)) for _ in range(5000)]
    keys = [key for key in keys if any(character.isdigit() for character in key)]
    assert sum(key in blotted(f"no {key} is taken") for key in keys) < len(keys) / 200  # those like a name


def test_a_known_secret_is_blotted_out_however_it_looks() -> None:
    assert blotted("the word was open sesame", ["open sesame"]) == "the word was [secret]"


def test_a_message_without_end_takes_no_time() -> None:
    started = time.process_time()
    blotted("a-" * 500_000)
    blotted("1-" * 500_000)
    blotted("a1" * 500_000)
    assert time.process_time() - started < 5
