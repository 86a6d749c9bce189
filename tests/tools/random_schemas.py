"""Random JSON schemas against a running server: python random_schemas.py BASE_URL MODEL [COUNT [SEED]].

Each schema mixes features of JSON Schema. An answer that ends with `stop` must be a document that
the `jsonschema` package accepts; a schema that is refused must be refused with 400 and a reason that
names a keyword of it. Prints what was seen; any failure ends the program with an error.
"""

import json
import random
import re
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import jsonschema

TIMEOUT_S = 120
WORDS = ["id", "name", "size", "tags", "note", "a b", "ä", "x-1", "$price", "über", "0"]
PATTERNS = ["^[a-z]{2,5}$", "^\\d{3}-\\d{4}$", "a+b?", "^(red|green)$", "^[A-Z][a-z]*$", "\\.txt$"]
FORMATS = ["date", "time", "date-time", "email", "uuid", "ipv4", "hostname", "uri"]


class Maker:
    """Schemas of one seed."""

    def __init__(self, seed):
        self.dice = random.Random(seed)
        self.definitions = {}

    def schema(self, depth):
        dice = self.dice
        simple = [self.text, self.integer, self.number, self.word, self.choice, self.constant]
        nested = [self.object, self.array, self.tuple, self.any_of, self.one_of, self.all_of]
        nested += [self.reference, self.types, self.rare]
        return dice.choice(simple if depth == 0 or dice.random() < 0.35 else nested)(depth)

    def text(self, _):
        dice, kind = self.dice, self.dice.randrange(5)
        schema = {"type": "string"}
        if kind == 0:
            schema["minLength"] = dice.randrange(4)
            schema["maxLength"] = schema["minLength"] + dice.randrange(12)
        elif kind == 1:
            schema["pattern"] = dice.choice(PATTERNS)
        elif kind == 2:
            schema["format"] = dice.choice(FORMATS)
        elif kind == 3:
            schema["maxLength"] = dice.randrange(1, 20)
        return schema

    def bounds(self, low, high):
        dice, bounds = self.dice, {}
        if dice.random() < 0.6:
            bounds[dice.choice(["minimum", "exclusiveMinimum"])] = low
        if dice.random() < 0.6:
            bounds[dice.choice(["maximum", "exclusiveMaximum"])] = high
        return bounds

    def integer(self, _):
        low = self.dice.randrange(-2000, 2000)
        schema = {"type": "integer", **self.bounds(low, low + self.dice.randrange(2, 5000))}
        if self.dice.random() < 0.2:
            schema["multipleOf"] = self.dice.choice([2, 5, 10])
        return schema

    def number(self, _):
        low = round(self.dice.uniform(-50, 50), 2)
        return {"type": "number", **self.bounds(low, low + 7.25)}

    def word(self, _):
        return {"type": self.dice.choice(["boolean", "null"])}

    def values(self):
        dice = self.dice
        pool = ["red", "it's", 'quo"te', "日本", "", 0, 17, -3, 2.5, True, False, None, [1, "b"], {"k": 1}]
        return dice.sample(pool, dice.randrange(1, 5))

    def choice(self, _):
        return {"enum": self.values()}

    def constant(self, _):
        return {"const": self.values()[0]}

    def object(self, depth):
        dice = self.dice
        names = dice.sample(WORDS, dice.randrange(0, 4))
        schema = {"type": "object", "properties": {n: self.schema(depth - 1) for n in names}}
        schema["required"] = [name for name in names if dice.random() < 0.6]
        more = dice.randrange(4)
        if more == 0:
            schema["additionalProperties"] = self.schema(0)
        elif more == 1:
            schema["patternProperties"] = {"^z_": self.schema(0)}
            schema["additionalProperties"] = False
        elif more == 2:
            schema["additionalProperties"] = False
        return schema

    def array(self, depth):
        schema = {"type": "array", "items": self.schema(depth - 1)}
        if self.dice.random() < 0.7:
            schema["minItems"] = self.dice.randrange(3)
            schema["maxItems"] = schema["minItems"] + self.dice.randrange(3)
        return schema

    def tuple(self, depth):
        items = [self.schema(depth - 1) for _ in range(self.dice.randrange(1, 4))]
        return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}

    def any_of(self, depth):
        return {"anyOf": [self.schema(depth - 1) for _ in range(self.dice.randrange(1, 4))]}

    def one_of(self, depth):
        kinds = self.dice.sample(["string", "integer", "boolean", "null"], 2)
        return {"oneOf": [{"type": kind} for kind in kinds] + [self.tuple(depth)][: self.dice.randrange(2)]}

    def all_of(self, depth):
        first = self.object(depth)
        return {"allOf": [first, {"required": list(first["properties"])[:1]}]}

    def reference(self, depth):
        name = f"d{len(self.definitions)}"
        self.definitions[name] = {}
        if self.dice.random() < 0.3:
            branch = {"type": "array", "maxItems": 2, "items": {"$ref": f"#/$defs/{name}"}}
            properties = {"value": self.schema(0), "children": branch}
            self.definitions[name] = {"type": "object", "properties": properties, "required": ["value"]}
        else:
            self.definitions[name] = self.schema(depth - 1)
        return {"$ref": f"#/$defs/{name}"}

    def types(self, _):
        return {"type": self.dice.sample(["string", "integer", "null", "boolean"], 2)}

    def rare(self, depth):
        """What a grammar may not be able to enforce."""
        inner = self.schema(depth - 1)
        return self.dice.choice(
            [
                {"not": inner},
                {"type": "array", "items": inner, "uniqueItems": True},
                {"if": {"type": "string"}, "then": inner},
                {"type": "object", "minProperties": 1},
                {"type": "array", "contains": inner},
                {"type": "object", "propertyNames": {"pattern": "^a"}},
                {"type": "object", "dependentRequired": {"a": ["b"]}},
                {"type": "string", "format": "unheard-of"},
            ]
        )

    def make(self):
        schema = self.object(3) if self.dice.random() < 0.7 else self.schema(3)
        if self.definitions:
            schema["$defs"] = self.definitions
        return schema


def keywords(schema):
    """All keys and names in a schema."""
    if isinstance(schema, dict):
        return set(schema).union(*map(keywords, schema.values()))
    if isinstance(schema, list):
        return set().union(*map(keywords, schema))
    return {schema} if isinstance(schema, str) else set()


def ask(url, model, schema, seed):
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "Answer with JSON."}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": schema, "strict": True}},
        "max_tokens": 160,
        "temperature": 0.8,
        "seed": seed,
    }
    data = json.dumps(body).encode()
    request = urllib.request.Request(
        f"{url}/chat/completions", data, {"content-type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def judge(url, model, seed):
    """What became of one schema, and what is wrong with it if anything is."""
    schema = Maker(seed).make()
    started = time.monotonic()
    status, answer = ask(url, model, schema, seed)
    took = time.monotonic() - started
    if status == 400:
        reason = answer["error"]["message"]
        known = keywords(schema) | {"oneOf", "anyOf", "Unsatisfiable"}
        named = any(re.search(re.escape(word), reason) for word in known if len(word) > 1)
        return "refused", None if named else f"names no keyword: {reason}", schema, took
    if status != 200:
        return "failed", f"{status}: {answer}", schema, took
    choice = answer["choices"][0]
    if choice["finish_reason"] != "stop":
        return choice["finish_reason"], None, schema, took
    text = choice["message"]["content"]
    try:
        jsonschema.Draft202012Validator(schema).validate(json.loads(text))
    except (ValueError, jsonschema.ValidationError) as error:
        return "invalid", f"{text}\n{error}", schema, took
    return "valid", None, schema, took


def main():
    url, model = sys.argv[1:3]
    count = int(sys.argv[3]) if len(sys.argv) > 3 else 500
    first = int(sys.argv[4]) if len(sys.argv) > 4 else 0
    seen, wrong, slowest = {}, [], (0, 0)
    with ThreadPoolExecutor(8) as pool:
        judged = pool.map(lambda seed: (seed, judge(url, model, seed)), range(first, first + count))
        for seed, (kind, problem, schema, took) in judged:
            seen[kind] = seen.get(kind, 0) + 1
            slowest = max(slowest, (took, seed))
            if problem:
                wrong.append(f"seed {seed}: {problem}\n{json.dumps(schema)}")
    print(f"{count} schemas: {seen}; slowest {slowest[0]:.1f} s (seed {slowest[1]})")
    if wrong:
        raise SystemExit("\n\n".join(wrong))
    if seen.get("valid", 0) < count // 4:
        raise SystemExit("too few documents came to an end to tell anything")
    print("all ok")


if __name__ == "__main__":
    main()
