"""Required tool calls against a running server: python required_tools.py BASE_URL MODEL [ROUNDS].

Offers 20 different tools with `tool_choice: "required"`, and each of them by name, streamed and
not. Every call must be of an offered tool, with arguments that the `jsonschema` package accepts.
"""

import json
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import jsonschema

TEXT = {"type": "string", "maxLength": 12}
COUNT = {"type": "integer", "minimum": 1, "maximum": 9}
ARGUMENTS = {
    "get_weather": {"city": TEXT, "unit": {"enum": ["celsius", "fahrenheit"]}},
    "search": {"query": TEXT, "limit": COUNT},
    "add": {"a": {"type": "number"}, "b": {"type": "number"}},
    "clock": {},
    "send_mail": {"to": {"type": "string", "format": "email"}, "subject": TEXT},
    "book": {"date": {"type": "string", "format": "date"}, "guests": COUNT},
    "paint": {"color": {"enum": ["red", "green", "blue"]}, "coats": COUNT},
    "sort": {"items": {"type": "array", "items": COUNT, "minItems": 1, "maxItems": 3}},
    "translate": {"text": TEXT, "language": {"enum": ["de", "fr", "ja"]}},
    "toggle": {"on": {"type": "boolean"}},
    "locate": {"point": {"type": "object", "properties": {"x": COUNT, "y": COUNT}, "required": ["x", "y"], "additionalProperties": False}},
    "play": {"song": TEXT, "volume": {"type": "integer", "minimum": 0, "maximum": 100}},
    "pay": {"amount": {"type": "number", "minimum": 0, "maximum": 100}, "currency": {"const": "EUR"}},
    "remind": {"at": {"type": "string", "pattern": "^[0-2][0-9]:[0-5][0-9]$"}, "note": TEXT},
    "pick": {"value": {"anyOf": [COUNT, {"type": "null"}]}},
    "rate": {"stars": {"type": "integer", "minimum": 1, "maximum": 5}},
    "open-file": {"path": TEXT, "mode": {"enum": ["r", "w"]}},
    "matrix.row": {"cells": {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 2}},
    "lookup": {"key": {"type": "string", "minLength": 1, "maxLength": 8}},
    "stop_timer": {"id": {"type": "string", "pattern": "^[a-f0-9]{4}$"}},
}
SCHEMAS = {
    name: {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    for name, properties in ARGUMENTS.items()
}
TOOLS = [
    {"type": "function", "function": {"name": name, "description": f"Calls {name}", "parameters": schema}}
    for name, schema in SCHEMAS.items()
]


def post(url, body):
    data = json.dumps(body).encode()
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(f"{url}/chat/completions", data, headers)
    with urllib.request.urlopen(request, timeout=120) as reply:
        return reply.read().decode()


def calls(url, body):
    """Names and arguments of the calls, and why the answer ended."""
    if not body["stream"]:
        choice = json.loads(post(url, body))["choices"][0]
        made = [call["function"] for call in choice["message"].get("tool_calls") or []]
        return [(call["name"], call["arguments"]) for call in made], choice["finish_reason"]
    made, reason = [], None
    for line in post(url, body).splitlines():
        if not line.startswith("data: {"):
            continue
        for choice in json.loads(line[6:])["choices"]:
            reason = choice["finish_reason"] or reason
            for delta in choice["delta"].get("tool_calls") or []:
                if delta["index"] == len(made):
                    assert delta["id"] and delta["type"] == "function", delta
                    made.append([delta["function"]["name"], ""])
                made[delta["index"]][1] += delta["function"]["arguments"]
    return made, reason


def check(url, model, seed):
    names = list(SCHEMAS)
    named = names[seed // 2 % len(names)]
    choice = {"type": "function", "function": {"name": named}} if seed % 2 else "required"
    body = {
        "model": model,
        "messages": [{"role": "user", "content": f"Please use {named.replace('_', ' ')} for me."}],
        "tools": TOOLS,
        "tool_choice": choice,
        "parallel_tool_calls": seed % 3 == 0,
        "max_tokens": 400,
        "temperature": 0.9,
        "seed": seed,
        "stream": seed % 4 > 1,
    }
    made, reason = calls(url, body)
    if reason == "length":
        return "length"
    assert made and reason == "tool_calls", (seed, made, reason)
    for name, arguments in made:
        assert choice == "required" or name == named, (seed, name, named)
        jsonschema.Draft202012Validator(SCHEMAS[name]).validate(json.loads(arguments))
    return "called"


def main():
    url, model = sys.argv[1:3]
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 80
    with ThreadPoolExecutor(4) as pool:
        ends = list(pool.map(lambda seed: check(url, model, seed), range(rounds)))
    print(f"{rounds} requests: {ends.count('called')} called, {ends.count('length')} cut by max_tokens")
    if ends.count("called") < rounds * 9 // 10:
        raise SystemExit("too many answers were cut")
    print("all ok")


if __name__ == "__main__":
    main()
