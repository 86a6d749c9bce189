"""LiteLLM, with the server as an OpenAI-compatible provider: python litellm_client.py BASE_URL MODEL."""

import json
import os
import sys

# What models cost is fetched otherwise.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm

from checks import CITY_SCHEMA, WEATHER_PARAMETERS, check, raises

HELLO = [{"role": "user", "content": "Say hello."}]


def main():
    base_url, model = sys.argv[1:3]
    where = dict(model=f"openai/{model}", api_base=base_url, api_key="none", timeout=300, max_retries=0)
    greedy = dict(where, temperature=0, max_tokens=16)
    answer = litellm.completion(messages=HELLO, **greedy)
    text = answer.choices[0].message.content
    check("an answer", text and answer.usage.completion_tokens > 0, answer)
    parts = list(litellm.completion(messages=HELLO, stream=True, stream_options={"include_usage": True}, **greedy))
    streamed = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
    check("the stream says the same", streamed == text, streamed)
    check("and counts the same", parts[-1].usage.completion_tokens == answer.usage.completion_tokens, parts[-1])
    legacy = litellm.text_completion(prompt="Water is", **{**greedy, "model": f"text-completion-openai/{model}"})
    check("text completion", legacy.choices[0].text, legacy)

    tool = {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER_PARAMETERS}}
    question = [{"role": "user", "content": "What is the weather in Paris?"}]
    asked = dict(where, messages=question, tools=[tool], tool_choice="required", temperature=0, max_tokens=100)
    choice = litellm.completion(**asked).choices[0]
    call = choice.message.tool_calls[0].function
    check("a required tool is called", (choice.finish_reason, call.name) == ("tool_calls", "get_weather"), choice)
    check("its arguments follow", list(json.loads(call.arguments)) == ["city"], call)
    rebuilt = litellm.stream_chunk_builder(list(litellm.completion(stream=True, **asked)))
    again = rebuilt.choices[0].message.tool_calls[0].function
    check("streamed, it is the same", again.arguments == call.arguments, rebuilt)

    wanted = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY_SCHEMA, "strict": True}}
    asked = [{"role": "user", "content": "Describe Paris as JSON."}]
    answer = litellm.completion(messages=asked, response_format=wanted, **{**greedy, "max_tokens": 100})
    check("a schema is followed", list(json.loads(answer.choices[0].message.content)) == CITY_SCHEMA["required"], answer)

    vectors = litellm.embedding(input=["A cat sleeps.", "Steel is an alloy."], **where)
    check("one vector a text", len(vectors.data) == 2, vectors.usage)
    wrong = {**greedy, "model": "openai/no-such-model"}
    raises("unknown model is not found", litellm.NotFoundError, lambda: litellm.completion(messages=HELLO, **wrong))
    print("all ok")


main()
