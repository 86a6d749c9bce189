"""Writes tests/data/templates/*.json: what Python's Jinja2 makes of chat templates.

The environment is the one that Hugging Face transformers documents for chat templates: sandboxed and
immutable, trim_blocks and lstrip_blocks on, loop controls, `tojson` without HTML escapes,
`raise_exception` and `strftime_now`. Messages are stored as a client sends them (arguments of tool
calls as JSON text); what a template is given is decided here by the rules that src/chat/template
documents, written down a second time on purpose.

    python3 tests/tools/make_template_fixtures.py DIRECTORY_WITH_JINJA_FILES [TARGET]
"""

import copy
import datetime
import json
import pathlib
import sys

import jinja2
import jinja2.ext
import jinja2.nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

NOW = datetime.datetime(2025, 3, 9, 14, 5, 7)
TAG = "CONTINUE_FINAL_MESSAGE_TAG "


class Generation(jinja2.ext.Extension):
    """`{% generation %}` only marks; what it holds is rendered as it stands."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


def to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def environment():
    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    env.filters["tojson"] = to_json
    env.filters["from_json"] = json.loads
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = NOW.strftime
    return env


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Current weather of a city, \"now\" & <here>",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "Name of the city, e.g. Zürich"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
                "days": {"type": "integer", "default": 1},
            },
            "required": ["city"],
        },
    },
}
CLOCK = {
    "type": "function",
    "function": {
        "name": "clock",
        "description": "Time of day",
        "parameters": {"type": "object", "properties": {}},
    },
}


def call(arguments, identity="abcdef123", name="get_weather"):
    function = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
    return {"id": identity, "type": "function", "function": function}


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


SYSTEM = {"role": "system", "content": "You are terse."}
PARIS = {"city": "Paris", "unit": "celsius", "days": 2}
RESULT = {"role": "tool", "tool_call_id": "abcdef123", "name": "get_weather", "content": "{\"temp\": 21.5}"}

CONVERSATIONS = {
    "user": dict(messages=[user("Hello!")], generate=True),
    "system": dict(
        messages=[SYSTEM, user("Hi"), assistant("Hello. "), user(" What is 2 + 2?\n")], generate=True
    ),
    "no_generation": dict(messages=[SYSTEM, user("Hi"), assistant("Hello.")], generate=False),
    "unicode": dict(
        messages=[user("Grüße <b>&'\"</b> 日本語 🦙\u2028 e\u0301 {{ 1 }} {% if %}")], generate=True
    ),
    "tools": dict(messages=[SYSTEM, user("Weather in Paris?")], tools=[WEATHER, CLOCK], generate=True),
    "tool_result": dict(
        messages=[
            user("Weather in Paris?"),
            assistant("", tool_calls=[call(PARIS)]),
            RESULT,
        ],
        tools=[WEATHER],
        generate=True,
    ),
    "tool_dialogue": dict(
        messages=[
            SYSTEM,
            user("Weather in Zürich?"),
            assistant(None, tool_calls=[call({"city": "Zürich \"& <x>"})]),
            RESULT,
            assistant("21.5 degrees."),
            user("Thanks"),
        ],
        tools=[WEATHER, CLOCK],
        generate=True,
    ),
    "parallel_calls": dict(
        messages=[
            user("Weather in Paris, and the time?"),
            assistant(
                "Let me see.",
                reasoning_content="Two questions.",
                tool_calls=[call(PARIS), call({}, "abcdef124", "clock")],
            ),
            RESULT,
            {"role": "tool", "tool_call_id": "abcdef124", "name": "clock", "content": "14:05"},
        ],
        tools=[WEATHER, CLOCK],
        generate=True,
    ),
    "reasoning": dict(
        messages=[
            user("2 + 2?"),
            assistant("4", reasoning_content="Two and two."),
            user("And 3 + 3?"),
        ],
        generate=True,
    ),
    "think_tags": dict(
        messages=[user("2 + 2?"), assistant("<think>\nHm.\n</think>\n\n4"), user("Sure?")],
        generate=True,
    ),
    "no_thinking": dict(messages=[user("Hello!")], generate=True, kwargs={"enable_thinking": False}),
    "thinking": dict(
        messages=[user("Hello!")], generate=True, kwargs={"enable_thinking": True, "thinking": True}
    ),
    "parts": dict(
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "One."}, {"type": "text", "text": "Two."}]}
        ],
        generate=True,
    ),
    "prefill": dict(messages=[user("Count."), assistant("One, two,")], generate=False, continued=True),
    "prefill_space": dict(messages=[user("Count."), assistant("One, ")], generate=False, continued=True),
}

TOKENS = {"bos_token": "<BOS>", "eos_token": "<EOS>"}


class Template:
    def __init__(self, source):
        self.template = environment().from_string(source)
        self.objects = self.takes_objects()
        self.content = self.content_form()

    def render(self, messages, tools=None, generate=True, kwargs=None):
        return self.template.render(
            messages=messages,
            tools=tools,
            documents=None,
            add_generation_prompt=generate,
            **TOKENS,
            **(kwargs or {}),
        )

    def attempt(self, *args, **kwargs):
        try:
            return self.render(*args, **kwargs)
        except Exception:
            return None

    def takes_objects(self):
        """Arguments of tool calls are objects unless only their text renders as JSON."""

        def successes(arguments):
            count = 0
            for content in (None, ""):
                function = {"name": "f", "arguments": arguments}
                made = {"id": "abcdef123", "type": "function", "function": function}
                history = [
                    user("u"),
                    {"role": "assistant", "content": content, "tool_calls": [made]},
                    {"role": "tool", "tool_call_id": "abcdef123", "name": "f", "content": "r"},
                ]
                text = self.attempt(history, [WEATHER]) or ""
                count += "needle_value" in text and "{'needle_key'" not in text
            return count

        objects = successes({"needle_key": "needle_value"})
        return objects >= successes('{"needle_key": "needle_value"}')

    def content_form(self):
        def probe(content):
            # Markup of Python lists in the output means that the template does not know them.
            text = self.attempt([user(content)]) or ""
            return "needle_text" in text and "'text'" not in text

        if probe([{"type": "text", "text": "needle_text"}]):
            return "any" if probe("needle_text") else "parts"
        return "text"

    def prepared(self, messages):
        messages = copy.deepcopy(messages)
        for message in messages:
            for made in message.get("tool_calls") or []:
                if self.objects:
                    made["function"]["arguments"] = json.loads(made["function"]["arguments"])
            content = message.get("content")
            if isinstance(content, list) and self.content == "text":
                message["content"] = "\n".join(part["text"] for part in content)
            if isinstance(content, str) and self.content == "parts":
                message["content"] = [{"type": "text", "text": content}]
        return messages

    def conversation(self, messages, tools=None, generate=True, kwargs=None, continued=False):
        messages = self.prepared(messages)
        if not continued:
            return self.render(messages, tools, generate, kwargs)
        if isinstance(messages[-1]["content"], list):
            messages[-1]["content"][-1]["text"] += TAG
        else:
            messages[-1]["content"] += TAG
        text = self.render(messages, tools, False, kwargs)
        at = text.rindex(TAG.strip())
        kept = text[at : at + len(TAG)] == TAG
        return text[:at] if kept else text[:at].rstrip()


def main():
    source = pathlib.Path(sys.argv[1])
    default = pathlib.Path(__file__).parent.parent / "data" / "templates"
    target = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else default
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.glob("*.jinja")):
        text = path.read_text(encoding="utf-8")
        template = Template(text)
        cases = []
        for name, case in CONVERSATIONS.items():
            made = {"name": name, **case}
            try:
                made["expected"] = template.conversation(**case)
            except Exception as error:
                made["error"] = str(error)
            cases.append(made)
        fixture = {"template": text, "objects": template.objects, "content": template.content, "cases": cases}
        out = target / (path.stem + ".json")
        out.write_text(json.dumps(fixture, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        failed = [c["name"] + ": " + c["error"][:60] for c in cases if "error" in c]
        print(f"{path.stem}: objects={template.objects} content={template.content} {failed}")


main()
