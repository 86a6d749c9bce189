// The official OpenAI client for Node: node openai.mjs BASE_URL MODEL. BASE_URL ends with /v1.
import OpenAI from "openai";
import { check, citySchema, raises, weatherParameters } from "./checks.mjs";

const [baseURL, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0, timeout: 300_000 });
const messages = [{ role: "user", content: "Say hello." }];
const greedy = { model, temperature: 0, seed: 1 };

const listed = [];
for await (const entry of client.models.list()) listed.push(entry.id);
check("the model is listed", listed.includes(model), listed);
check("and can be asked for", (await client.models.retrieve(model)).id === model);

const answer = await client.chat.completions.create({ ...greedy, messages, max_tokens: 16 });
const text = answer.choices[0].message.content;
check("chat has an answer", text.length > 0, answer);
const stream = await client.chat.completions.create({
  ...greedy, messages, max_tokens: 16, stream: true, stream_options: { include_usage: true },
});
let streamed = "";
let last;
for await (const chunk of stream) {
  streamed += chunk.choices[0]?.delta.content ?? "";
  last = chunk;
}
check("the stream says the same", streamed === text, streamed);
check("and counts the same", last.usage.completion_tokens === answer.usage.completion_tokens, last);

const legacy = await client.completions.create({ ...greedy, prompt: "Water is", max_tokens: 5 });
check("text completion", legacy.choices[0].text.length > 0, legacy);

const tool = { type: "function", function: { name: "get_weather", parameters: weatherParameters } };
const asked = {
  ...greedy, max_tokens: 100, tools: [tool], tool_choice: "required",
  messages: [{ role: "user", content: "What is the weather in Paris?" }],
};
const choice = (await client.chat.completions.create(asked)).choices[0];
const call = choice.message.tool_calls[0].function;
check("a required tool is called", choice.finish_reason === "tool_calls", choice);
check("its arguments follow", Object.keys(JSON.parse(call.arguments)).join() === "city", call);
const helper = client.chat.completions.stream(asked);
const final = await helper.finalChatCompletion();
check("streamed, it is the same", final.choices[0].message.tool_calls[0].function.arguments === call.arguments, final);

const ran = client.chat.completions.runTools({
  ...asked, tool_choice: { type: "function", function: { name: "get_weather" } }, max_tokens: 60,
  tools: [{ type: "function", function: { ...tool.function, parse: JSON.parse, function: ({ city }) => `sunny in ${city}` } }],
}, { maxChatCompletions: 1 });
const roles = [];
ran.on("message", (message) => roles.push(message.role));
await ran.done();
check("the helper runs the tool", roles.includes("tool"), roles);

const format = { type: "json_schema", json_schema: { name: "city", schema: citySchema, strict: true } };
const parsed = await client.chat.completions.parse({
  ...greedy, max_tokens: 100, response_format: format,
  messages: [{ role: "user", content: "Describe Paris as JSON." }],
});
check("a schema is followed", Object.keys(JSON.parse(parsed.choices[0].message.content)).join() === citySchema.required.join(), parsed);

const input = ["A cat sleeps.", "Steel is an alloy."];
const packed = await client.embeddings.create({ model, input });
const floats = await client.embeddings.create({ model, input, encoding_format: "float" });
const same = floats.data[1].embedding.every((x, i) => Math.abs(x - packed.data[1].embedding[i]) < 1e-6);
check("base64 and floats agree", same && packed.data[1].embedding.length > 0, packed.usage);

const responding = { model, temperature: 0, input: "Say hello.", max_output_tokens: 16 };
const response = await client.responses.create(responding);
check("a response", response.object === "response" && response.output_text.length > 0, response);
const responded = await client.responses.stream(responding).finalResponse();
check("the stream says the same", responded.output_text === response.output_text, responded);
const responseCall = await client.responses.create({
  ...responding, input: "What is the weather in Paris?", max_output_tokens: 100, tool_choice: "required",
  parallel_tool_calls: false, tools: [{ type: "function", name: "get_weather", parameters: weatherParameters, strict: true }],
});
const item = responseCall.output.at(-1);
check("a required tool is called", item.type === "function_call" && "city" in JSON.parse(item.arguments), responseCall);
const goingOn = await client.responses.create({
  model, previous_response_id: responseCall.id, max_output_tokens: 5,
  input: [{ type: "function_call_output", call_id: item.call_id, output: "sunny" }],
});
check("a conversation goes on", goingOn.previous_response_id === responseCall.id, goingOn);

const error = await raises("an unknown model is 404", 404, () =>
  client.chat.completions.create({ model: "no-such-model", messages }));
check("with a code", error.code === "model_not_found", error);
const wrong = await raises("a wrong value is 400", 400, () =>
  client.chat.completions.create({ model, messages, temperature: 9 }));
check("and named", wrong.param === "temperature", wrong);

const left = await client.completions.create({ model, prompt: "Water is", max_tokens: 500, stream: true });
for await (const _ of left) break;
check("a stream can be left", (await client.completions.create({ ...greedy, prompt: "Water is", max_tokens: 5 })).choices[0].text === legacy.choices[0].text);
console.log("all ok");
