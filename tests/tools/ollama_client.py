"""The official Ollama client against a running server: python ollama_client.py BASE_URL MODEL."""

import json
import sys

import ollama

from checks import CITY_SCHEMA, WEATHER_PARAMETERS, check, raises

GREEDY = {"temperature": 0, "num_predict": 16}


def generation(client, model):
    hello = [{"role": "user", "content": "Say hello."}]
    answer = client.chat(model, hello, options=GREEDY)
    check("chat has an answer", answer.message.role == "assistant" and answer.message.content, answer)
    check("it is done", answer.done and answer.done_reason in ("stop", "length"), answer)
    check("its counts", answer.prompt_eval_count > 0 and 0 < answer.eval_count <= 16, answer)
    parts = list(client.chat(model, hello, options=GREEDY, stream=True))
    text = "".join(part.message.content or "" for part in parts)
    check("the stream says the same", text == answer.message.content, text)
    check("only its last line is done", [part.done for part in parts][-2:] == [False, True], parts[-2:])
    plain = client.generate(model, "Water is", raw=True, options=GREEDY)
    parts = list(client.generate(model, "Water is", raw=True, options=GREEDY, stream=True))
    check("generate streams the same", "".join(p.response for p in parts) == plain.response, plain)
    check("generate renders the template", client.generate(model, "Say hello.", options=GREEDY).response == answer.message.content)
    check("generate has no context to keep", plain.done and plain.eval_count > 0, plain)
    city = client.chat(model, [{"role": "user", "content": "Describe Paris as JSON."}], format=CITY_SCHEMA,
                       options={"temperature": 0, "num_predict": 100})
    check("a schema is followed", list(json.loads(city.message.content)) == CITY_SCHEMA["required"], city)
    tool = {"type": "function", "function": {"name": "get_weather", "description": "Tells the weather.",
                                             "parameters": WEATHER_PARAMETERS}}
    asked = [
        {"role": "user", "content": "What is the weather in Paris?"},
        {"role": "assistant", "content": "", "tool_calls": [
            {"function": {"name": "get_weather", "arguments": {"city": "Paris"}}}]},
        {"role": "tool", "tool_name": "get_weather", "content": "sunny"},
    ]
    check("tools and results are taken", client.chat(model, asked, tools=[tool], options=GREEDY).eval_count > 0)


def embeddings(client, model):
    answer = client.embed(model, ["A cat sleeps.", "Steel is an alloy."])
    check("one vector a text", len(answer.embeddings) == 2, answer)
    check("of length one", abs(sum(x * x for x in answer.embeddings[0]) - 1) < 1e-3)


def models(client, model):
    names = [entry.model for entry in client.list().models]
    check("the model is listed", any(name.split(":")[0] == model for name in names), names)
    shown = client.show(model)
    check("it is described", shown.details.family and shown.modelinfo, shown)
    check("its abilities too", "completion" in shown.capabilities, shown.capabilities)
    loaded = [entry.model for entry in client.ps().models]
    check("it is in memory", any(name.split(":")[0] == model for name in loaded), loaded)


def errors(client, model):
    error = raises("unknown model is 404", ollama.ResponseError, lambda: client.generate("no-such-model", "x"))
    check("with a status", error.status_code == 404, error)
    wrong = {"num_predict": 1, "temprature": 1}
    error = raises("an unknown option is 400", ollama.ResponseError, lambda: client.generate(model, "x", options=wrong))
    check("and named", error.status_code == 400 and "temprature" in error.error, error)


def main():
    base_url, model = sys.argv[1:3]
    client = ollama.Client(base_url, timeout=300)
    for part in (generation, embeddings, models, errors):
        part(client, model)
    print("all ok")


main()
