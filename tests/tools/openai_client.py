"""The official OpenAI client against a running server: python openai_client.py BASE_URL MODEL.

Prints one line for each thing that was checked; any failure ends the program with an error.
"""

import json
import sys

import openai


def check(what, condition, seen):
    if not condition:
        raise SystemExit(f"FAILED {what}: {seen!r}")
    print(f"ok {what}")


def chat(client, model):
    messages = [{"role": "user", "content": "Say hello."}]
    answer = client.chat.completions.create(
        model=model, messages=messages, max_tokens=16, temperature=0, seed=1
    )
    choice = answer.choices[0]
    check("chat has an answer", bool(choice.message.content), answer)
    check("chat role", choice.message.role == "assistant", choice)
    check("chat finish reason", choice.finish_reason in ("stop", "length"), choice)
    usage = answer.usage
    check("usage adds up", usage.total_tokens == usage.prompt_tokens + usage.completion_tokens, usage)
    check("usage counts the answer", 0 < usage.completion_tokens <= 16, usage)

    stream = client.chat.completions.create(
        model=model,
        messages=messages,
        max_tokens=16,
        temperature=0,
        seed=1,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    check("stream equals answer", text == choice.message.content, (text, choice.message.content))
    check("first chunk has the role", chunks[0].choices[0].delta.role == "assistant", chunks[0])
    reasons = [c.choices[0].finish_reason for c in chunks if c.choices]
    check("last choice says why", reasons[-1] == choice.finish_reason, reasons)
    check("no earlier one does", not any(reasons[:-1]), reasons)
    counts = chunks[-1].usage and (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens)
    check("stream usage", counts == (usage.prompt_tokens, usage.completion_tokens), chunks[-1])


def stop_and_length(client, model):
    messages = [{"role": "user", "content": "Count from one to ten in words."}]
    full = client.chat.completions.create(model=model, messages=messages, max_tokens=24, temperature=0)
    text = full.choices[0].message.content
    word = text.split()[2]
    cut = client.chat.completions.create(
        model=model, messages=messages, max_tokens=24, temperature=0, stop=[word]
    )
    check("stop string is not shown", word not in cut.choices[0].message.content, cut)
    check("stop string is the reason", cut.choices[0].finish_reason == "stop", cut)
    check("text before it stays", text.startswith(cut.choices[0].message.content), (text, cut))
    short = client.chat.completions.create(model=model, messages=messages, max_tokens=3, temperature=0)
    check("length is the reason", short.choices[0].finish_reason == "length", short)
    check("exactly as many tokens", short.usage.completion_tokens == 3, short.usage)


def completions(client, model):
    answer = client.completions.create(
        model=model, prompt=["The sky is", "Water is"], max_tokens=5, temperature=0
    )
    check("one choice a prompt", [c.index for c in answer.choices] == [0, 1], answer)
    single = client.completions.create(model=model, prompt="Water is", max_tokens=5, temperature=0)
    check("batched equals alone", single.choices[0].text == answer.choices[1].text, (single, answer))
    stream = client.completions.create(
        model=model, prompt="Water is", max_tokens=5, temperature=0, stream=True
    )
    text = "".join(c.choices[0].text for c in stream if c.choices)
    check("completion stream equals answer", text == single.choices[0].text, text)


def models(client, model):
    names = [m.id for m in client.models.list()]
    check("model is listed", model in names, names)
    check("model can be asked for", client.models.retrieve(model).id == model, model)


def structured(client, model):
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 20},
            "population": {"type": "integer", "minimum": 0, "maximum": 100000000},
            "capital": {"type": "boolean"},
        },
        "required": ["name", "population", "capital"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "city", "schema": schema, "strict": True}}
    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "Describe Paris as JSON."}],
        response_format=wanted,
        temperature=0,
        max_tokens=100,
    )
    city = json.loads(answer.choices[0].message.content)
    check("a schema is followed", list(city) == schema["required"], answer)
    check("its types too", isinstance(city["population"], int) and isinstance(city["capital"], bool), city)
    check("a document ends", answer.choices[0].finish_reason == "stop", answer)


def tools(client, model):
    city = {"type": "string", "maxLength": 20}
    definitions = [
        {
            "type": "function",
            "function": {
                "name": "get_weather",
                "parameters": {"type": "object", "properties": {"city": city}, "required": ["city"],
                               "additionalProperties": False},
            },
        },
        {"type": "function", "function": {"name": "get_time"}},
    ]
    asked = dict(
        model=model,
        messages=[{"role": "user", "content": "What is the weather in Paris?"}],
        tools=definitions,
        tool_choice="required",
        parallel_tool_calls=False,
        temperature=0,
        max_tokens=100,
    )
    choice = client.chat.completions.create(**asked).choices[0]
    check("a required tool is called", choice.finish_reason == "tool_calls", choice)
    call = choice.message.tool_calls[0]
    names = {"get_weather": ["city"], "get_time": []}
    check("arguments follow the schema", list(json.loads(call.function.arguments)) == names[call.function.name], call)
    pieces = [c.choices[0].delta.tool_calls for c in client.chat.completions.create(**asked, stream=True) if c.choices]
    pieces = [piece for calls in pieces for piece in calls or []]
    check("the first piece has a name", pieces[0].function.name == call.function.name and pieces[0].id, pieces)
    joined = "".join(piece.function.arguments or "" for piece in pieces)
    check("streamed arguments are the same", joined == call.function.arguments, pieces)
    result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    followed = asked["messages"] + [choice.message.model_dump(exclude_none=True), result]
    answer = client.chat.completions.create(model=model, messages=followed, tools=definitions, max_tokens=5)
    check("a result is taken", answer.usage.completion_tokens > 0, answer)


def errors(client, base_url, model):
    messages = [{"role": "user", "content": "x"}]
    try:
        client.chat.completions.create(model="no-such-model", messages=messages)
        check("unknown model is an error", False, None)
    except openai.NotFoundError as error:
        check("unknown model is 404", error.code == "model_not_found", error)
    try:
        client.chat.completions.create(model=model, messages=messages, temperature=9)
        check("temperature 9 is an error", False, None)
    except openai.BadRequestError as error:
        check("bad value is 400 and named", "temperature" in str(error.param), error.body)
    try:
        client.chat.completions.create(model=model, messages=messages, extra_body={"temprature": 1})
        check("unknown field is an error", False, None)
    except openai.BadRequestError as error:
        check("unknown field is 400 and named", "temprature" in str(error), error.body)
    try:
        client.chat.completions.create(model=model, messages=messages, max_tokens=10_000_000)
        check("an answer beyond the context is an error", False, None)
    except openai.BadRequestError as error:
        check("an answer beyond the context is 400", error.status_code == 400, error.body)


def main():
    base_url, model = sys.argv[1:3]
    client = openai.OpenAI(base_url=base_url, api_key="none", max_retries=0, timeout=300)
    models(client, model)
    chat(client, model)
    stop_and_length(client, model)
    completions(client, model)
    structured(client, model)
    tools(client, model)
    errors(client, base_url, model)
    print("all ok")


main()
