// Vercel's AI SDK with two providers: node ai.mjs BASE_URL MODEL. BASE_URL ends with /v1.
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany, generateObject, generateText, jsonSchema, streamObject, streamText, tool } from "ai";
import { check, citySchema, raises, weatherParameters } from "./checks.mjs";

const [baseURL, model] = process.argv.slice(2);
const compatible = createOpenAICompatible({
  name: "kolosal", baseURL, apiKey: "none", includeUsage: true, supportsStructuredOutputs: true,
});
const anthropic = createAnthropic({ baseURL, apiKey: "none" });

for (const [name, provider] of [["openai-compatible", compatible], ["anthropic", anthropic]]) {
  const common = { model: provider(model), temperature: 0, maxRetries: 0 };
  const asked = { ...common, prompt: "Say hello.", maxOutputTokens: 16 };
  const answer = await generateText(asked);
  check(`${name}: generateText`, answer.text.length > 0 && answer.usage.outputTokens > 0, answer.usage);
  const stream = streamText(asked);
  let text = "";
  for await (const part of stream.textStream) text += part;
  check(`${name}: streamText says the same`, text === answer.text, text);
  check(`${name}: and counts the same`, (await stream.usage).outputTokens === answer.usage.outputTokens);

  const described = {
    ...common, schema: jsonSchema(citySchema), prompt: "Describe Paris as JSON.", maxOutputTokens: 100,
  };
  const city = await generateObject(described);
  check(`${name}: generateObject`, Object.keys(city.object).join() === citySchema.required.join(), city.object);
  const partial = streamObject(described);
  let grown;
  for await (const object of partial.partialObjectStream) grown = object;
  check(`${name}: streamObject says the same`, JSON.stringify(grown) === JSON.stringify(city.object), grown);

  const called = await generateText({
    ...common,
    prompt: "What is the weather in Paris?",
    maxOutputTokens: 100,
    toolChoice: "required",
    tools: {
      get_weather: tool({
        description: "Tells the weather.",
        inputSchema: jsonSchema(weatherParameters),
        execute: async ({ city }) => `sunny in ${city}`,
      }),
    },
  });
  check(`${name}: a tool call`, called.toolCalls.length > 0 && "city" in called.toolCalls[0].input, called.toolCalls);
  check(`${name}: and its result`, called.toolResults[0].output.startsWith("sunny"), called.toolResults);
  await raises(`${name}: an unknown model is 404`, 404, () => generateText({ ...asked, model: provider("no-such-model") }));
}

const vectors = await embedMany({ model: compatible.embeddingModel(model), values: ["A cat sleeps.", "Steel."] });
check("embedMany", vectors.embeddings.length === 2, vectors.usage);
console.log("all ok");
