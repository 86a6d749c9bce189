"""The official Anthropic client against a running server: python anthropic_client.py BASE_URL MODEL.

BASE_URL has no `/v1`; the client adds it.
"""

import json
import sys

import anthropic

from checks import CITY_SCHEMA, WEATHER_PARAMETERS, check, raises

# The client has no parameter for it any more; the API has.
GREEDY = {"temperature": 0}
HELLO = [{"role": "user", "content": "Say hello."}]


def messages(client, model):
    asked = dict(model=model, max_tokens=16, messages=HELLO, system="You are brief.", extra_body=GREEDY)
    answer = client.messages.create(**asked)
    check("an answer", answer.content[0].type == "text" and answer.content[0].text, answer)
    check("its frame", (answer.type, answer.role, answer.model) == ("message", "assistant", model), answer)
    check("why it ended", answer.stop_reason in ("end_turn", "max_tokens"), answer)
    check("usage", 0 < answer.usage.output_tokens <= 16, answer.usage)
    with client.messages.stream(**asked) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    check("the stream says the same", text == answer.content[0].text, text)
    check("and ends the same", final.stop_reason == answer.stop_reason, final)
    check("and counts the same", final.usage.output_tokens == answer.usage.output_tokens, final)
    events = [event.type for event in client.messages.create(**asked, stream=True)]
    wanted = ["message_start", "content_block_start", "content_block_delta", "content_block_stop",
              "message_delta", "message_stop"]
    check("raw events in order", list(dict.fromkeys(e for e in events if e != "ping")) == wanted, events)
    counted = client.messages.count_tokens(model=model, messages=HELLO, system="You are brief.")
    prompt = answer.usage.input_tokens + (answer.usage.cache_read_input_tokens or 0)
    check("counted tokens are those of the prompt", counted.input_tokens == prompt, (counted, answer.usage))


def endings(client, model):
    count = [{"role": "user", "content": "Count from one to ten in words."}]
    asked = dict(model=model, max_tokens=24, messages=count, extra_body=GREEDY)
    text = client.messages.create(**asked).content[0].text
    word = text.split()[2]
    cut = client.messages.create(**asked, stop_sequences=[word])
    check("a stop sequence", (cut.stop_reason, cut.stop_sequence) == ("stop_sequence", word), cut)
    check("is not shown", word not in cut.content[0].text, cut)
    short = client.messages.create(**{**asked, "max_tokens": 3})
    check("max_tokens", (short.stop_reason, short.usage.output_tokens) == ("max_tokens", 3), short)
    begun = count + [{"role": "assistant", "content": "one, two,"}]
    check("an answer can be begun", client.messages.create(**{**asked, "messages": begun}).content, begun)


def tools(client, model):
    definitions = [
        {"name": "get_weather", "description": "Tells the weather.", "input_schema": WEATHER_PARAMETERS},
        {"name": "get_time", "input_schema": {"type": "object", "properties": {}, "additionalProperties": False}},
    ]
    question = [{"role": "user", "content": "What is the weather in Paris?"}]
    asked = dict(model=model, max_tokens=100, messages=question, tools=definitions, extra_body=GREEDY)
    for choice in ({"type": "any"}, {"type": "tool", "name": "get_weather"}):
        choice["disable_parallel_tool_use"] = True
        answer = client.messages.create(**asked, tool_choice=choice)
        call = answer.content[-1]
        check("a call is forced", (answer.stop_reason, call.type) == ("tool_use", "tool_use"), answer)
        fields = {"get_weather": ["city"], "get_time": []}[call.name]
        check("its input has the fields", list(call.input) == fields, call)
    check("it is the named one", call.name == "get_weather", call)
    with client.messages.stream(**asked, tool_choice=choice) as stream:
        pieces = [event.partial_json for event in stream if event.type == "input_json"]
        final = stream.get_final_message()
    check("streamed input is the same", json.loads("".join(pieces)) == call.input, pieces)
    check("as a message too", final.content[-1].input == call.input, final)
    results = question + [
        {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in answer.content]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}]},
    ]
    followed = client.messages.create(**{**asked, "messages": results, "max_tokens": 5}, tool_choice={"type": "none"})
    check("a result is taken", followed.usage.output_tokens > 0, followed)


def structured(client, model):
    wanted = {"format": {"type": "json_schema", "schema": CITY_SCHEMA}}
    asked = [{"role": "user", "content": "Describe Paris as JSON."}]
    answer = client.messages.create(model=model, max_tokens=100, messages=asked, extra_body=GREEDY, output_config=wanted)
    city = json.loads(answer.content[0].text)
    check("a schema is followed", list(city) == CITY_SCHEMA["required"], city)


def errors(client, model):
    def ask(**fields):
        return client.messages.create(**{"model": model, "max_tokens": 5, "messages": HELLO, **fields})

    error = raises("unknown model is 404", anthropic.NotFoundError, lambda: ask(model="no-such-model"))
    check("in the dialect's shape", error.body["error"]["type"] == "not_found_error", error.body)
    bad = [dict(extra_body={"temperature": 9}), dict(max_tokens=0), dict(messages=[]), dict(extra_body={"temprature": 1}),
           dict(tool_choice={"type": "any"})]
    for fields in bad:
        error = raises(f"400 for {fields}", anthropic.BadRequestError, lambda: ask(**fields))
        check("in the dialect's shape", error.body["error"]["type"] == "invalid_request_error", error.body)


def main():
    base_url, model = sys.argv[1:3]
    client = anthropic.Anthropic(base_url=base_url, api_key="none", max_retries=0, timeout=300)
    for part in (messages, endings, tools, structured, errors):
        part(client, model)
    print("all ok")


main()
