// Vercel's AI SDK with its provider for OpenAI-compatible servers.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { APICallError, generateObject, generateText, Output, stepCountIs, streamObject, streamText, tool } from 'ai';
import { baseURL, EXTRACT, Event, FAIR, fair, FRANCE, location, model as name, PARIS, STORY, SUM, sunny, weather } from './demo.mjs';

const settings = { name: 'moesaic', baseURL, includeUsage: true, supportsStructuredOutputs: true };
const model = createOpenAICompatible(settings)(name);
const ask = (prompt, more) => ({ model, prompt, temperature: 0, maxRetries: 0, ...more });

test('generateText', async () => {
  const answer = await generateText(ask(FRANCE));
  assert.match(answer.text, /Paris/);
  assert.equal(answer.finishReason, 'stop');
  assert.equal(answer.usage.totalTokens, answer.usage.inputTokens + answer.usage.outputTokens);
  assert.equal(answer.response.modelId, name);
});

test('streamText comes in pieces', async () => {
  const answer = streamText(ask(STORY));
  const pieces = [];
  for await (const piece of answer.textStream) pieces.push(piece);
  assert(pieces.length > 5, `${pieces.length} pieces`);
  assert.equal(pieces.join(''), (await generateText(ask(STORY))).text);
  assert.match(pieces.join(''), /fox/);
  assert.equal(await answer.finishReason, 'stop');
  assert((await answer.usage).outputTokens >= pieces.length);
});

test('objects have their schema', async () => {
  const { object } = await generateObject(ask(FAIR, { system: EXTRACT, schema: Event }));
  assert.deepEqual(object, fair);
  const { output } = await generateText(ask(FAIR, { system: EXTRACT, output: Output.object({ schema: Event }) }));
  assert.deepEqual(output, fair);
});

test('objects grow in a stream', async () => {
  const { partialObjectStream, object } = streamObject(ask(FAIR, { system: EXTRACT, schema: Event }));
  const partial = [];
  for await (const each of partialObjectStream) partial.push(each);
  assert(partial.length > 3, `${partial.length} states`);
  assert.deepEqual([partial.at(-1), await object], [fair, fair]);
});

/** The tool, and where it notes what it was asked. */
function tools() {
  const asked = [];
  const execute = async (input) => asked.push(input) && sunny;
  return { asked, tools: { [weather.name]: tool({ description: weather.description, inputSchema: location, execute }) } };
}

test('tools run in a loop, or once where forced', async () => {
  const { asked, tools: set } = tools();
  const { steps, text } = await generateText(ask(PARIS, { tools: set, stopWhen: stepCountIs(3) }));
  assert.deepEqual(asked, [{ location: 'Paris' }]);
  assert.deepEqual(steps.map((step) => step.finishReason), ['tool-calls', 'stop']);
  assert(['Paris', '17', 'sunny'].every((part) => text.includes(part)), text);
  const forced = await generateText(ask(PARIS, { tools: set, toolChoice: { type: 'tool', toolName: weather.name } }));
  assert.deepEqual(forced.toolCalls.map((call) => [call.toolName, call.input]), [[weather.name, { location: 'Paris' }]]);
});

test('tools run in a loop of streams', async () => {
  const { asked, tools: set } = tools();
  const answer = streamText(ask(PARIS, { tools: set, stopWhen: stepCountIs(3) }));
  const parts = [];
  for await (const part of answer.fullStream) parts.push(part);
  assert.deepEqual(asked, [{ location: 'Paris' }]);
  assert(parts.filter((part) => part.type === 'tool-input-delta').length > 1);
  assert.deepEqual(parts.filter((part) => part.type === 'tool-result').map((part) => part.output), [sunny]);
  const text = parts.filter((part) => part.type === 'text-delta').map((part) => part.text).join('');
  assert(['Paris', '17', 'sunny'].every((part) => text.includes(part)), text);
});

test('thoughts are reasoning, whole and streamed', async () => {
  const request = ask(SUM, { providerOptions: { moesaic: { reasoningEffort: 'low' } } });
  const { reasoningText, text } = await generateText(request);
  assert.match(reasoningText, /7 \+ 8 = 15/);
  assert.match(text, /105/);
  const answer = streamText(request);
  const kinds = [];
  for await (const part of answer.fullStream) kinds.push(part.type);
  assert(kinds.filter((kind) => kind === 'reasoning-delta').length > 1, `${kinds}`);
  assert(kinds.indexOf('reasoning-end') < kinds.indexOf('text-start'), `${kinds}`);
  assert.deepEqual([await answer.reasoningText, await answer.text], [reasoningText, text]);
});

test('errors say what the server says', async () => {
  const error = await generateText(ask(FRANCE, { temperature: 3 })).then(() => assert.fail('no error'), (error) => error);
  assert(APICallError.isInstance(error), `${error}`);
  assert.deepEqual([error.statusCode, error.isRetryable, error.data.error.param], [400, false, 'temperature']);
  assert.match(error.message, /from 0 to 2/);
});
