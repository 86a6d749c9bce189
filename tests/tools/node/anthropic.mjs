// The official Anthropic client for Node: node anthropic.mjs BASE_URL MODEL. The client adds /v1.
import Anthropic from "@anthropic-ai/sdk";
import { check, raises, weatherParameters } from "./checks.mjs";

const [baseURL, model] = process.argv.slice(2);
const client = new Anthropic({ baseURL, apiKey: "none", maxRetries: 0, timeout: 300_000 });
const messages = [{ role: "user", content: "Say hello." }];
const asked = { model, max_tokens: 16, messages, temperature: 0 };

const answer = await client.messages.create(asked);
check("an answer", answer.content[0].type === "text" && answer.content[0].text.length > 0, answer);
const final = await client.messages.stream(asked).finalMessage();
check("the stream says the same", final.content[0].text === answer.content[0].text, final);
check("and counts the same", final.usage.output_tokens === answer.usage.output_tokens, final);
const counted = await client.messages.countTokens({ model, messages });
check("tokens are counted", counted.input_tokens > 0, counted);

const tools = [{ name: "get_weather", input_schema: weatherParameters }];
const question = [{ role: "user", content: "What is the weather in Paris?" }];
const forced = {
  model, max_tokens: 100, temperature: 0, tools, messages: question,
  tool_choice: { type: "tool", name: "get_weather", disable_parallel_tool_use: true },
};
const called = await client.messages.create(forced);
const call = called.content.at(-1);
check("a call is forced", called.stop_reason === "tool_use" && call.name === "get_weather", called);
check("its input follows", Object.keys(call.input).join() === "city", call);
const streamed = await client.messages.stream(forced).finalMessage();
check("streamed, it is the same", JSON.stringify(streamed.content.at(-1).input) === JSON.stringify(call.input), streamed);
const followed = await client.messages.create({
  ...asked, max_tokens: 5, tools,
  messages: [
    ...question,
    { role: "assistant", content: called.content },
    { role: "user", content: [{ type: "tool_result", tool_use_id: call.id, content: "sunny" }] },
  ],
});
check("a result is taken", followed.usage.output_tokens > 0, followed);

const error = await raises("an unknown model is 404", 404, () => client.messages.create({ ...asked, model: "no-such-model" }));
check("in the dialect's shape", error.error.error.type === "not_found_error", error.error);
await raises("a wrong value is 400", 400, () => client.messages.create({ ...asked, max_tokens: 0 }));
console.log("all ok");
