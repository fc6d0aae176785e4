"""What no controller should answer but some will: nulls everywhere, and text that wants to be more than text."""

# ruff: noqa: E501 (sentences as a controller writes them)

from .stories import output, rich
from .trials import Json, ago, arms, effect, metric, reason


def payloads() -> list[str]:
    """200 texts that would do something if a page read them as markup, a script, a formula or an address."""
    seeds = [
        "<script>window.__pwned=1;fetch('http://evil.test/s')</script>",
        '<img src=x onerror="window.__pwned=1">',
        "![x](http://evil.test/pixel.png)",
        "[click](javascript:window.__pwned=1)",
        "<iframe src='http://evil.test/f'></iframe>",
        "<svg/onload=window.__pwned=1>",
        "</code></pre><script>window.__pwned=1</script>",
        "<link rel=stylesheet href=http://evil.test/a.css>",
        "<style>@import 'http://evil.test/b.css';</style>",
        "$$\\href{javascript:window.__pwned=1}{x}$$",
        ":material/bolt: :red[x] :smile: ![i](http://evil.test/i.svg)",
        "http://evil.test/auto www.evil.test mail@evil.test",
        '=HYPERLINK("http://evil.test","x")',
        "+1+cmd|' /C calc'!A0",
        "-2+3+cmd|' /C calc'!A0",
        "@SUM(1+1)*cmd|' /C calc'!A0",
        "\t=1+1",
        "\r=1+1",
        "| a | b |\n|---|---|\n| ![t](http://evil.test/t.png) | x |",
        "# heading\n> quote\n![q](http://evil.test/q.png)\u202egnp.evil",
    ]
    wraps = [
        "{}",
        "hello {} world",
        '"{}"',
        "{}\n{}",
        "**{}**",
        "`{}`",
        "&lt;{}&gt;",
        "\u0000{}",
        "{}" * 3,
        "A" * 300 + "{}",
    ]
    return [wrap.replace("{}", seed) for seed in seeds for wrap in wraps]


def nulls() -> Json:
    """Every field that may be null is null."""
    story = rich()
    for one in story["experiments"]:
        name, model = one["name"], one["model"]
        for key in one:
            one[key] = None
        one |= {
            "name": name,
            "model": model,
            "mode": "ab",
            "state": "running",
            "verdict": {"kind": "keep_running"},
        }
    story["experiments"][0]["verdict"] = {
        "kind": "keep_running",
        "sentence": None,
        "reasons": None,
        "srm": None,
        "look": None,
        "digest": None,
        "metrics": [
            metric("latency", "success", "log_mean", [], None, None, None, "no_data"),
            metric(
                "odd",
                "guardrail",
                "binary",
                arms((1, 1, 0, None), (1, 1, 0, None), (1, 2)),
                effect("ratio", 1.0, None, None, "m"),
                effect("difference", 0.1, None, 0.2, "m"),
                0.1,
                "insufficient_data",
            ),
        ],
    }
    for model in story["models"]:
        model |= {"production": None, "former": None, "versions": None}
    story["pairs"] = [
        {"pair_id": None, "at": None, "prompt": None, "control": None, "candidate": None} | {"pair_id": ""}
    ]
    story["decisions"] = [{"action": "promote"}]
    story["runs"] = [{"run_id": "run-1"}]
    story["comparisons"] = [{"verdict": "inconclusive"}]
    story["preflights"] = [{"result": None}, {"result": {"findings": [None, {}]}}]
    story["health"] = {
        "as_of": None,
        "collector": {"lag_s": None},
        "workers": [{"worker": "w"}],
        "registry": {"ok": None},
        "ledger": {},
    }
    return story


def hostile() -> Json:
    """200 payloads in every place that foreign text can reach."""
    story = rich()
    texts = payloads()

    def at(index: int) -> str:
        return texts[index % len(texts)]

    for number, one in enumerate(story["experiments"]):
        one["name"], one["model"] = at(number * 7), at(number * 11 + 2)
        one["spec_yaml"], one["state"], one["mode"] = at(number), at(number + 30), at(number + 60)
        one["arms"][1]["arm"] = at(number + 10)
        for light in one["guardrails"]:
            light["metric"], light["state"] = at(number + 20), at(number + 90)
        if one["verdict"]:
            one["verdict"]["sentence"] = at(number + 40)
            one["verdict"]["reasons"] = [
                reason(at(4), at(5), text) for text in texts[number * 9 : number * 9 + 9]
            ]
            for place, found in enumerate(one["verdict"]["metrics"]):
                found["metric"], found["text"], found["display_unit"] = (
                    at(place * 3 + number),
                    at(place + 50),
                    at(place + 70),
                )
    for number, model in enumerate(story["models"]):
        model["name"] = at(number * 13 + 2)
        for version in model["versions"]:
            version["aliases"] = [at(version["version"] + 80), at(version["version"])]
            if version["endpoint"]:
                version["endpoint"]["engine"] = at(version["version"] + 3)
    for event in story["timeline"]["events"]:
        event["action"], event["actor"], event["reason"], event["text"] = at(1), at(2), at(30), at(20)
    for bucket in story["timeline"]["traffic"]:
        bucket["arm"] = at(20) if bucket["arm"] == "candidate" else "control"
    for found in story["timeline"]["effects"]:
        found["metric"], found["stage"] = at(22), at(23)
    story["pairs"] = [
        {
            "pair_id": str(number),
            "at": ago(number),
            "prompt": text,
            "control": output(1, text, 3, 100.0),
            "candidate": output(
                3, at(number + 1), 3, 90.0, tools=[{"name": text, "arguments": at(number + 2)}]
            )
            | {"finish_reason": at(number + 3)},
        }
        for number, text in enumerate(texts)
    ]
    story["decisions"] = [
        {
            "decision_id": text,
            "at": ago(number),
            "actor": text,
            "action": text,
            "model": text,
            "experiment": text,
            "from_version": 1,
            "to_version": 2,
            "verdict_kind": text,
            "verdict_hash": text,
            "forced": False,
            "reason": text,
            "state": text,
            "changed": [text],
        }
        for number, text in enumerate(texts)
    ]
    for run in story["runs"]:
        run |= {"set_name": at(10), "status": at(30), "summary": {at(2): at(20)}, "model": at(120)}
    for rows in story["results"].values():
        for number, row in enumerate(rows):
            row |= {
                "item_id": at(number),
                "evaluator": at(number + 1),
                "explanation": at(number + 2),
                "output": {"text": at(number + 3)},
            }
    for found in story["comparisons"]:
        broken = [
            {"item_id": text, "evaluator": text, "expected": text, "got": text, "other": f"{text} {text}"}
            for text in texts[:15]
        ]
        asked = [{"evaluator": text, "judge": text, "asked": 9, "position_bias_p": 0.01} for text in texts]
        pairs = [{"item_id": text, "preferred": "control", "explanation": text} for text in texts[:15]]
        labels = [
            {
                "evaluator": text,
                "drawn": n % 3,
                "labelled": 1,
                "labellers": [text],
                "among": [{"raters": [text] * 2}],
            }
            for n, text in enumerate(texts[:15])
        ]
        found |= {
            "model": at(20),
            "set_name": at(1),
            "result": {
                "sentence": at(0),
                "newly_failing": broken,
                "preferences": {"checks": asked[:40], "pairs": pairs},
                "judges": asked[:40],
                "labels": labels,
            },
        }
    for task in story["worksheet"]["tasks"]:
        said = {
            "question": "\n".join(texts),
            "reference": at(3),
            "criterion": at(4),
            "grades": [at(5), at(6)],
        }
        task |= said | {"answers": ["\n".join(texts)]}
    story["worksheet"] |= {"set_name": at(7), "evaluator": at(8)}
    story["labels"] = [{"labeller": text, "task": "x", "draw_id": "d", "item_id": "i"} for text in texts[:9]]
    story["draws"] = [{"draw_id": "d-1", "evaluator": "better", "size": 30, "seed": "s"}]
    for found in story["preflights"]:
        broken = [
            {"check": text, "status": text, "sentence": text, "items": [text, text]} for text in texts[:15]
        ]
        found |= {"model": at(20), "result": {"sentence": at(0), "findings": broken}}
    story["health"] |= {
        "workers": [{"worker": text, "snapshot": 1, "last_seen_s": 1.0} for text in texts[:40]],
        "registry": {"ok": False, "error": at(20), "last_ok_s": 900.0},
        "losses": 12,
    }
    story["health"]["ledger"]["path"] = at(0)
    return story
