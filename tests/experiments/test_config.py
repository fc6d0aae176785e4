"""A torn, empty or wrong file never replaces a good one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from experiments.config import Config, Declared, differences, read_config
from experiments.errors import DocumentError
from experiments.ledger.recording import RecordingPolicy
from experiments.steering.junction import Junction
from experiments.steering.publication import Publication

GOOD = """\
models:
  chat: {recording: redacted, redact: ['[0-9]{16}'], keep: 30d, keep_size: 5GB}
  code: {recording: numbers}
"""
KEYS = "keys:\n  - {tenant: acme, sha256: %s}\n" % ("ab" * 32)
HOOK = "notify:\n  - {url: https://a.example/hook, secret_env: HOOK}\n"


def write(file: Path, text: str) -> None:
    """As an editor does it: another file, renamed."""
    making = file.with_suffix(".new")
    making.write_text(text)
    making.replace(file)


def test_what_is_said_is_what_holds() -> None:
    policies = read_config(GOOD, "turnout.yaml").policies
    chat = policies["chat"]
    assert chat.recording == "redacted"
    assert chat.redact[0].pattern == "[0-9]{16}"
    assert chat.keep_s == 30 * 86_400
    assert chat.keep_bytes == 5 * 10**9
    assert policies["code"].recording == "numbers"


@pytest.mark.parametrize(
    ("text", "field", "line"),
    [
        (GOOD.replace("numbers", "number"), "models.code.recording", 3),
        (GOOD.replace("[0-9]{16}", "[0-9"), "models.chat.redact[0]", 2),
        (GOOD.replace("[0-9]{16}", "a{99999999999}"), "models.chat.redact[0]", 2),
        (GOOD.replace("[0-9]{16}", "(((a{1000}){1000}){1000}){1000}"), "models.chat.redact[0]", 2),
        (GOOD.replace("[0-9]{16}", 3000 * "(" + 3000 * ")"), "models.chat.redact[0]", 2),
        (GOOD.replace("30d", "30"), "models.chat.keep", 2),
        (GOOD.replace("30d", "1000000d"), "models.chat.keep", 2),
        (GOOD.replace("5GB", "9" * 400 + "GB"), "models.chat.keep_size", 2),
        (GOOD.replace("5GB", "9" * 40 + "GB"), "models.chat.keep_size", 2),
        (GOOD.replace("5GB", "5"), "models.chat.keep_size", 2),
        (GOOD.replace("keep_size", "keepsize"), "models.chat.keepsize", 2),
        (GOOD.replace("redact: ['[0-9]{16}'], ", ""), "models.chat.recording", 2),
        (GOOD + "  code: {}\n", "models.code", 4),
        ("model: {}\n", "model", 1),
        ("[chat]", "", 1),
        ("models: {chat: [full]}", "models.chat", 1),
        ("models: {Chat: {}}", "models.Chat", 1),
        ("models: {chat: {}}\nmodels: {}", "models", 2),
        ("models: &all {}\nkeys: *all", "", 2),
        (r'models: {"\ud800": {}}', "", 1),
        (GOOD.replace("numbers", "2026-13-45"), "models.code.recording", 3),
        (GOOD.replace("numbers", "!!bool perhaps"), "models.code.recording", 3),
        (GOOD.replace("numbers", "0x" + "f" * 9000), "models.code.recording", 3),
        (f"{KEYS}  - {{tenant: other, sha256: {'ab' * 32}}}", "keys[1].sha256", 3),
        (f"{HOOK}  - {{url: https://a.example/hook, secret_env: OTHER}}", "notify[1].url", 3),
        ("", "", None),
    ],
)
def test_every_problem_has_its_place(text: str, field: str, line: int | None) -> None:
    with pytest.raises(DocumentError) as caught:
        read_config(text, "turnout.yaml")
    places = {(problem.field, problem.line) for problem in caught.value.problems}
    assert any(place[0] == field and line in (None, place[1]) for place in places), places


@pytest.mark.parametrize("bad", ["", "models:\n  chat: {recor", "models: {chat: {recording: all}}", "\x00"])
def test_a_bad_file_leaves_the_last_good_one_in_force(tmp_path: Path, bad: str) -> None:
    file = tmp_path / "turnout.yaml"
    write(file, GOOD)
    config = Config(file)
    assert config.recordings() == {"chat": "redacted", "code": "numbers"}
    write(file, bad)
    assert not config.reload()
    assert config.recordings() == {"chat": "redacted", "code": "numbers"}
    assert config.error
    write(file, GOOD.replace("numbers", "full"))
    assert config.reload()
    assert config["code"].recording == "full"
    assert config.error is None


def test_a_file_that_has_gone_does_not_switch_redaction_off(tmp_path: Path) -> None:
    file = tmp_path / "turnout.yaml"
    write(file, GOOD)
    config = Config(file)
    os.unlink(file)
    assert not config.reload()
    assert config["chat"].recording == "redacted"
    assert "has gone" in str(config.error)
    write(file, GOOD)
    config.reload()
    assert config.error is None


def test_a_file_that_comes_back_as_it_was_is_in_force(tmp_path: Path) -> None:
    file, aside = tmp_path / "turnout.yaml", tmp_path / "aside.yaml"
    file.write_text(GOOD)
    config = Config(file)
    file.rename(aside)
    config.reload()
    assert "has gone" in str(config.error)
    aside.rename(file)
    config.reload()
    assert config.error is None


def test_a_file_that_could_not_be_read_once_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "turnout.yaml"
    file.write_text(KEYS)
    config = Config(file)
    file.write_text(GOOD)

    def refuse(path: Path, *arguments: str) -> str:
        raise OSError("too many open files")

    with monkeypatch.context() as there:
        there.setattr(Path, "read_text", refuse)
        assert not config.reload()
    assert "too many open files" in str(config.error)
    assert config.reload()
    assert config.error is None
    assert config.recordings() == {"chat": "redacted", "code": "numbers"}


def test_without_a_file_everything_is_recorded_in_full(tmp_path: Path) -> None:
    config = Config(tmp_path / "turnout.yaml")
    assert dict(config) == {}
    assert config.error is None


def test_a_file_that_has_not_changed_is_not_read_again(tmp_path: Path) -> None:
    file = tmp_path / "turnout.yaml"
    write(file, GOOD)
    config = Config(file)
    assert not config.reload()


def test_keys_name_their_tenants() -> None:
    assert read_config(KEYS, "turnout.yaml").keys == {"ab" * 32: "acme"}
    for wrong, place in (("ab" * 32, "keys[0].sha256"), ("acme", "keys[0].tenant")):
        with pytest.raises(DocumentError) as caught:
            read_config(KEYS.replace(wrong, "A b"), "turnout.yaml")
        assert [problem.field for problem in caught.value.problems] == [place]


def test_a_tenant_may_have_two_keys_while_one_replaces_the_other() -> None:
    other = f"  - {{tenant: acme, sha256: {'cd' * 32}}}\n"
    assert set(read_config(KEYS + other, "turnout.yaml").keys.values()) == {"acme"}


def test_a_restart_on_a_torn_file_keeps_what_was_in_force(tmp_path: Path) -> None:
    file = tmp_path / "turnout.yaml"
    write(file, GOOD + KEYS)
    before = Config(file)
    write(file, GOOD[:20])
    after = Config(file)
    assert after.error is not None
    assert after.keys_in_force() == before.keys_in_force() != {}
    assert after.recordings() == before.recordings() != {}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (f"{KEYS}  - {{tenant: acme, sha256: {'ab' * 32}}}", 3),
        (f"{KEYS}models: {{'no model': {{recording: numbers}}}}", 3),
    ],
)
def test_a_text_that_was_taken_once_and_would_not_be_now_stays_in_force(
    tmp_path: Path, text: str, line: int
) -> None:
    file, last_good = tmp_path / "turnout.yaml", tmp_path / "turnout.last-good.yaml"
    write(file, text)
    write(last_good, text)
    config = Config(file)
    assert config.keys_in_force() == {"ab" * 32: "acme"}
    assert f"turnout.yaml:{line}: " in str(config.error)
    write(file, KEYS)
    config.reload()
    assert config.error is None


def test_what_cannot_be_read_at_all_is_replaced_by_what_the_proxies_have(tmp_path: Path) -> None:
    file, last_good = tmp_path / "turnout.yaml", tmp_path / "turnout.last-good.yaml"
    write(file, GOOD.replace("[0-9]{16}", "[0-9"))
    write(last_good, file.read_text())
    before = Declared(policies={"chat": RecordingPolicy(recording="redacted")}, keys={"ab" * 32: "acme"})
    with pytest.raises(DocumentError):
        Config(file)
    config = Config(file, before)
    assert config.declared == before
    assert "turnout.yaml:2: " in str(config.error)


def test_a_restart_without_the_file_switches_nothing_off(tmp_path: Path) -> None:
    file = tmp_path / "turnout.yaml"
    write(file, GOOD + KEYS)
    before = Config(file)
    file.unlink()
    after = Config(file)
    assert (after.declared, after.text) == (before.declared, before.text)
    assert "has gone" in str(after.error)
    write(file, "models: {}\n")
    after.reload()
    assert (after.error, dict(after), after.keys_in_force()) == (None, {}, {})


@pytest.mark.parametrize(
    ("entry", "recording"),
    [
        ("{redact: ['x']}", "redacted"),
        ("{recording: full, redact: ['x']}", "full"),
        ("{redact: ['x'], recording: numbers}", "numbers"),
        ("{redact: []}", "full"),
        ("{keep: 1d}", "full"),
    ],
)
def test_whoever_declares_patterns_wants_them_used(entry: str, recording: str) -> None:
    declared = read_config(f"models: {{chat: {entry}}}", "turnout.yaml")
    assert declared.policies["chat"].recording == recording


def test_a_wrong_file_without_a_last_good_one_starts_nothing(tmp_path: Path) -> None:
    file = tmp_path / "turnout.yaml"
    write(file, GOOD[:20])
    with pytest.raises(DocumentError):
        Config(file)


def test_keys_reach_the_proxies(tmp_path: Path) -> None:
    file = tmp_path / "turnout.yaml"
    write(file, KEYS)
    publication = Publication(tmp_path / "snapshot.json")
    junction = Junction(publication, keys=Config(file).keys_in_force)
    junction.publish()
    assert publication.last is not None
    assert dict(publication.last.keys) == {"ab" * 32: "acme"}


def test_what_another_file_makes_different_is_said_without_secrets() -> None:
    hook = "notify:\n  - {url: https://example.com/a-secret-path, secret_env: HOOK}\n"
    registry = "registry: {secret_env: MLFLOW_HOOK}\n"
    before, after = read_config(GOOD, "a"), read_config("models: {}\n" + KEYS + hook + registry, "b")
    assert differences(before, before) == ()
    assert differences(before, after) == (
        "recording of 'chat': redacted, patterns '[0-9]{16}', kept for 30d, 5000000000 bytes at most -> full",
        "recording of 'code': numbers -> full",
        "a key of 'acme' is added",
        "the proxy answers nobody without a key",
        "decisions are posted to example.com",
        "what MLflow posts is signed with the secret in MLFLOW_HOOK",
    )
    assert "the proxy asks nobody for a key" in differences(after, before)
