"""No field of a body leads a request, its key or its account anywhere else."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import orjson
import pytest

from proxy import wire
from proxy.errors import Refusal
from proxy.limits import Limits
from proxy.steering import NESTS, ROUTING_FIELDS, steers

from .test_endpoints import BODIES

#: What litellm's own proxy refuses of clients: names, lists made of other lists, containers, federation.
LITELLMS = """
import json
from litellm.proxy.auth import auth_utils
from litellm.types.router import server_owned_wif_fields_named
class All:
    def __contains__(self, name): return True
names = {*auth_utils._BANNED_REQUEST_BODY_PARAMS, *server_owned_wif_fields_named(All())}
print(json.dumps([sorted(names), [*auth_utils._NESTED_CONFIG_KEYS, *auth_utils._NESTED_METADATA_KEYS]]))
"""


def test_what_the_installed_litellm_refuses_is_refused() -> None:
    """Without an exception: also its prices, by which a budget further on would count wrong."""
    ran = subprocess.run(
        [sys.executable, "-c", LITELLMS],
        env=os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    names, containers = json.loads(ran.stdout.splitlines()[-1])
    assert len(names) > 150, "the list has been moved or emptied: look where"
    assert [name for name in names if not steers(name)] == []
    assert [name for name in containers if not steers(name) and name not in NESTS] == []


@pytest.mark.parametrize("path", sorted(BODIES))
def test_each_is_refused_at_the_top_and_nested_on_every_path(path: str) -> None:
    families = {"gcs_new_thing", "new_vendor_api_key", "input_cost_per_new_thing", "anthropic_issuer_new"}
    for name in ROUTING_FIELDS | families | {"API_BASE", "Gcs_Bucket"}:
        for nest in (None, *NESTS):
            extra = {name: "http://evil"} if nest is None else {nest: {"x": 1, name: "http://evil"}}
            param = name if nest is None else f"{nest}.{name}"
            if nest == "extra_headers":
                param = nest  # it is refused as a whole
            with pytest.raises(Refusal) as refused:
                wire.parse(path, orjson.dumps({"model": "chat", **BODIES[path], **extra}), Limits())
            assert (refused.value.status, refused.value.code) == (400, "routing_field_refused")
            assert refused.value.param == param


def test_ordinary_tags_pass() -> None:
    tags = {"session_id": "s", "user_id": "ada", "cost": 3, "my_api": "key", "workspace": "w"}
    wire.parse(
        "/v1/messages", orjson.dumps({"model": "m", **BODIES["/v1/messages"], "metadata": tags}), Limits()
    )


def test_a_name_of_megabytes_is_not_said_again() -> None:
    body = orjson.dumps({"model": "m", "messages": [], "x" * 1_000_000 + "_api_key": 1})
    with pytest.raises(Refusal) as refused:
        wire.parse("/v1/chat/completions", body, Limits())
    assert len(refused.value.message) < 300
