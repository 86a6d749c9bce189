"""The official OpenAI client against a running server: python openai_client.py BASE_URL MODEL.

Prints one line for each thing that was checked; any failure ends the program with an error.
"""

import asyncio
import json
import sys

import openai
import pydantic

from checks import CITY_SCHEMA, WEATHER_PARAMETERS, check, raises


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
    wanted = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY_SCHEMA, "strict": True}}
    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "Describe Paris as JSON."}],
        response_format=wanted,
        temperature=0,
        max_tokens=100,
    )
    city = json.loads(answer.choices[0].message.content)
    check("a schema is followed", list(city) == CITY_SCHEMA["required"], answer)
    check("its types too", isinstance(city["population"], int) and isinstance(city["capital"], bool), city)
    check("a document ends", answer.choices[0].finish_reason == "stop", answer)


def tools(client, model):
    definitions = [
        {
            "type": "function",
            "function": {"name": "get_weather", "parameters": WEATHER_PARAMETERS},
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


class Colour(pydantic.BaseModel):
    """A type that the client turns into a schema and back."""

    name: str = pydantic.Field(max_length=10)
    shade: str = pydantic.Field(pattern="^(light|dark)$")
    parts: list[int] = pydantic.Field(min_length=3, max_length=3)


class GetWeather(pydantic.BaseModel):
    """Tells the weather of a city."""

    city: str = pydantic.Field(max_length=20)


def parsed(client, model):
    messages = [{"role": "user", "content": "Describe the colour red as JSON."}]
    asked = dict(model=model, messages=messages, response_format=Colour, temperature=0, max_tokens=120)
    answer = client.chat.completions.parse(**asked).choices[0].message
    check("parse() gives the type", isinstance(answer.parsed, Colour), answer)
    with client.chat.completions.stream(**asked) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion().choices[0].message
    check("stream() has its events", {"chunk", "content.delta", "content.done"} <= kinds, kinds)
    check("stream() gives the same", final.parsed == answer.parsed, final)
    answer = client.chat.completions.parse(
        model=model,
        messages=[{"role": "user", "content": "What is the weather in Rome?"}],
        tools=[openai.pydantic_function_tool(GetWeather)],
        tool_choice={"type": "function", "function": {"name": "GetWeather"}},
        temperature=0,
        max_tokens=100,
    )
    call = answer.choices[0].message.tool_calls[0].function
    check("a named tool is called", isinstance(call.parsed_arguments, GetWeather), answer)


def logprobs(client, model):
    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "Say hello."}],
        max_tokens=4,
        temperature=0,
        logprobs=True,
        top_logprobs=3,
        n=2,
    )
    tokens = answer.choices[0].logprobs.content
    check("n answers", [c.index for c in answer.choices] == [0, 1], answer)
    check("logprobs for each token", len(tokens) == 4, tokens)
    check("the greedy one is the best", all(t.logprob == t.top_logprobs[0].logprob for t in tokens), tokens)
    text = b"".join(bytes(t.bytes) for t in tokens).decode()
    check("tokens spell the text", text == answer.choices[0].message.content, text)
    legacy = client.completions.create(model=model, prompt="Water is", max_tokens=2, temperature=0, logprobs=2, echo=True)
    choice = legacy.choices[0]
    check("echo repeats the prompt", choice.text.startswith("Water is"), choice)
    check("the first token has no logprob", choice.logprobs.token_logprobs[0] is None, choice.logprobs)
    check("offsets fit", choice.logprobs.text_offset[0] == 0, choice.logprobs)


def embeddings(client, model):
    texts = ["A cat sleeps.", "A kitten naps.", "Steel is an alloy."]
    floats = client.embeddings.create(model=model, input=texts, encoding_format="float")
    packed = client.embeddings.create(model=model, input=texts)
    check("one vector a text", [d.index for d in floats.data] == [0, 1, 2], floats.usage)
    pairs = [zip(a.embedding, b.embedding) for a, b in zip(floats.data, packed.data)]
    check("base64 and floats agree", all(abs(x - y) < 1e-6 for pair in pairs for x, y in pair))
    length = sum(x * x for x in floats.data[0].embedding)
    check("vectors have length one", abs(length - 1) < 1e-3, length)
    short = client.embeddings.create(model=model, input=texts[0], dimensions=32)
    check("dimensions", len(short.data[0].embedding) == 32, len(short.data[0].embedding))


def responses(client, model):
    asked = dict(model=model, input="Say hello.", max_output_tokens=16, temperature=0)
    answer = client.responses.create(**asked)
    check("a response", answer.status in ("completed", "incomplete") and answer.output_text, answer)
    check("its frame", answer.object == "response" and answer.output[0].type == "message", answer)
    check("its usage", answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens, answer)
    events = list(client.responses.create(**asked, stream=True))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    check("the stream says the same", text == answer.output_text, text)
    check("it begins and ends", (events[0].type, events[-1].type) == ("response.created", f"response.{answer.status}"), events[-1])
    check("events are numbered", [event.sequence_number for event in events] == list(range(len(events))))
    counted = client.responses.input_tokens.count(model=model, input="Say hello.")
    check("input tokens are counted", counted.input_tokens == answer.usage.input_tokens, counted)

    described = {**asked, "input": "Describe the colour red as JSON.", "max_output_tokens": 120, "text_format": Colour}
    parsed = client.responses.parse(**described)
    check("parse() gives the type", isinstance(parsed.output_parsed, Colour), parsed)
    with client.responses.stream(**described) as stream:
        for _ in stream:
            pass
        final = stream.get_final_response()
    check("stream() gives the same", final.output_parsed == parsed.output_parsed, final)
    tool = {"type": "function", "name": "get_weather", "parameters": WEATHER_PARAMETERS, "strict": True}
    question = {**asked, "input": "What is the weather in Paris?", "tools": [tool], "max_output_tokens": 100,
                "parallel_tool_calls": False}
    called = client.responses.create(**question, tool_choice="required")
    call = called.output[-1]
    check("a required tool is called", (call.type, call.name) == ("function_call", "get_weather"), called)
    check("its arguments follow", list(json.loads(call.arguments)) == ["city"], call)
    pieces = [event for event in client.responses.create(**question, tool_choice="required", stream=True)
              if event.type.startswith("response.function_call_arguments")]
    joined = "".join(event.delta for event in pieces if event.type.endswith("delta"))
    check("streamed arguments are the same", joined == call.arguments == pieces[-1].arguments, joined)
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    followed = client.responses.create(model=model, previous_response_id=called.id, input=[result], max_output_tokens=5)
    check("a conversation goes on", followed.previous_response_id == called.id and followed.output, followed)

    loop = [{"role": "developer", "content": "be short"}, {"role": "user", "content": "Weather in Paris?"}]
    for choice in ("required", "none"):
        turn = client.responses.create(**{**question, "input": loop}, tool_choice=choice, store=False)
        for item in turn.output:
            loop.append(item.model_dump(exclude_none=True))
            if item.type == "function_call":
                loop.append({**result, "call_id": item.call_id})
    check("a loop without the store ends with words", loop[-1]["type"] == "message", loop)

    running = client.responses.create(model=model, input="Tell a long story.", max_output_tokens=900, stream=True)
    for number, event in enumerate(running):
        if event.type == "response.created":
            begun = event.response.id
        if number == 6:
            status = client.responses.retrieve(begun).status
            check("a stream is in progress", status == "in_progress", status)
            check("and can be cancelled", client.responses.cancel(begun).status == "cancelled")
    ended = client.responses.retrieve(begun)
    check("it ends early", event.response.status == ended.status == "cancelled", ended)

    check("a response can be asked for", client.responses.retrieve(answer.id).output_text == answer.output_text)
    items = client.responses.input_items.list(answer.id).data
    check("and what it answers", items[0].content[0].text == "Say hello.", items)
    client.responses.delete(answer.id)
    raises("and deleted", openai.NotFoundError, lambda: client.responses.retrieve(answer.id))


async def together(base_url, model):
    client = openai.AsyncOpenAI(base_url=base_url, api_key="none", max_retries=0, timeout=300)
    prompts = ["The sky is", "Water is", "One two three", "Once upon a time"]

    async def ask(prompt):
        answer = await client.completions.create(model=model, prompt=prompt, max_tokens=6, temperature=0)
        return answer.choices[0].text

    alone = [await ask(prompt) for prompt in prompts]
    check("company changes no answer", await asyncio.gather(*map(ask, prompts)) == alone, alone)
    stream = await client.completions.create(model=model, prompt="Water is", max_tokens=500, stream=True)
    async for _ in stream:
        break
    await stream.close()
    check("a stream can be left", await ask("Water is") == alone[1])


def errors(client, model):
    messages = [{"role": "user", "content": "x"}]
    ask = lambda **fields: client.chat.completions.create(**{"model": model, "messages": messages, **fields})
    error = raises("unknown model is 404", openai.NotFoundError, lambda: ask(model="no-such-model"))
    check("with a code", error.code == "model_not_found", error.body)
    long = [{"role": "user", "content": "word " * 20_000}]
    error = raises("a prompt beyond the context is 400", openai.BadRequestError, lambda: ask(messages=long))
    check("with a code", error.code == "context_length_exceeded", error.body)
    bad = [
        ("temperature", dict(temperature=9)),
        ("temprature", dict(extra_body={"temprature": 1})),
        ("n", dict(n=0)),
        ("top_logprobs", dict(top_logprobs=2)),
        ("messages", dict(messages=[])),
        ("messages[0].content[0].type", dict(messages=[{"role": "user", "content": [IMAGE]}])),
        ("response_format.json_schema.schema", dict(response_format=schema_format({"type": 5}))),
        ("audio", dict(audio={"voice": "alloy", "format": "wav"})),
        ("store", dict(store=True)),
    ]
    for param, fields in bad:
        error = raises(f"a wrong {param} is 400", openai.BadRequestError, lambda: ask(**fields))
        check("and named", (error.param or "").startswith(param), error.body)


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def schema_format(schema):
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}


def main():
    base_url, model = sys.argv[1:3]
    client = openai.OpenAI(base_url=base_url, api_key="none", max_retries=0, timeout=300)
    models(client, model)
    chat(client, model)
    stop_and_length(client, model)
    completions(client, model)
    structured(client, model)
    tools(client, model)
    parsed(client, model)
    logprobs(client, model)
    embeddings(client, model)
    responses(client, model)
    errors(client, model)
    asyncio.run(together(base_url, model))
    print("all ok")


main()
