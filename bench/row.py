"""How is a Turnout prepared that can be measured: everything on, two versions, nothing left running?

    python -m bench.row [FOLDER]

Prepares FOLDER by the operator's own way (controller, proxy, register, key, experiment), stops both again,
and prints how to start the proxy: a JSON list of one {"name", "cmd", "port", "model", "headers", ...}. The
worker starts from the snapshot that it saved, so that only the data path runs while it is measured; the
records stay in FOLDER/spool until a controller is started on it.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Final

from experiments.client import ControlClient, ControlError
from experiments.snapshot import Snapshot, SnapshotError
from turnout.processes import Processes, free_port, programs
from turnout.settings import Settings

ROOT: Final = Path(__file__).resolve().parent.parent
MODEL: Final = "stub"
#: The key that load generators send by themselves; the folder is on loopback and thrown away.
KEY: Final = "sk-test"
PORT: Final = 8200
#: Where the two versions are served while the benchmark runs; nothing needs to listen there now.
ENGINES: Final = ("http://127.0.0.1:9001", "http://127.0.0.1:9002")
PATIENCE_SECONDS: Final = 60.0

SPEC: Final = """\
experiment: bench
model: {model}
mode: ab
candidate: 2
unit: user
traffic: {{weight: 20}}
metrics:
  success:
    - {{metric: latency, mde: 5%}}
analysis: {{horizon: 100000000, max_duration: 30d}}
"""


def prepare(data: Path, model: str = MODEL, engines: Sequence[str] = ENGINES) -> None:
    """Make `data` anew: both versions, the key, the experiment, and the snapshot that a worker saved."""
    if data.exists():
        shutil.rmtree(data)
    data.mkdir(mode=0o700, parents=True)
    digest = sha256(KEY.encode()).hexdigest()
    (data / "turnout.yaml").write_text(f"keys:\n  - {{tenant: bench, sha256: {digest}}}\n", "utf-8")
    settings = Settings(
        data=data,
        tracking_uri=None,
        control_url=None,
        proxy_url=None,
        token=None,
        proxy_port=free_port(),
        control_port=free_port(),
        workers=1,
    )
    controller, proxy, _ = programs(settings)
    processes = Processes(data)
    try:
        processes.start(controller)
        processes.wait(controller.name)
        with closing(ControlClient(settings.control_address, settings.read_token())) as api:
            version = _declare(api, model, engines)
        processes.start(proxy)
        _await_snapshot(data / "proxy-snapshot.json", version)
    finally:
        processes.stop()


def _declare(api: ControlClient, model: str, engines: Sequence[str]) -> int:
    """Two versions and the experiment; the version of the snapshot that has all of it."""
    for number, url in enumerate(engines):
        body = {
            "replicas": [url],
            "served_name": model,
            "engine": "vllm",
            "tags": {},
            "source": None,
            "aliases": [] if number else ["production"],
        }
        api.post(f"/api/models/{model}/versions", body)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            api.post("/api/experiments", {"spec_yaml": SPEC.format(model=model), "filename": "bench.yaml"})
            break
        except ControlError:  # the registry's news may take a moment
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
    return int(api.get("/api/health")["snapshot"])


def _await_snapshot(file: Path, version: int) -> None:
    """Until the proxy has saved the snapshot. Raises TimeoutError."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        try:
            if Snapshot.from_json(file.read_bytes()).version >= version:
                return
        except (OSError, SnapshotError):
            pass
        time.sleep(0.1)
    raise TimeoutError(f"{file} did not become version {version} within {PATIENCE_SECONDS:g} s")


def row(data: Path) -> Mapping[str, object]:
    """How to start the proxy on `data`, and what a client has to send."""
    command = [str(Path(sys.executable).with_name("turnout")), "proxy", "--workers", "1", "--port", str(PORT)]
    command += ["--data", str(data), "--control-url", f"http://127.0.0.1:{free_port()}"]
    return {
        "name": "turnout",
        "cmd": " ".join(command),
        "port": PORT,
        "model": MODEL,
        "headers": [f"Authorization: Bearer {KEY}"],
        "wait": 30,
        "warm": 3,
        "cwd": str(data),
    }


def main() -> None:
    """Print the row."""
    data = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT / "turnout-data" / "bench"
    prepare(data)
    print(json.dumps([row(data)]))


if __name__ == "__main__":
    main()
