// LangChain's OpenAI integration.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { AIMessageChunk, HumanMessage, SystemMessage } from '@langchain/core/messages';
import { tool } from '@langchain/core/tools';
import { ChatOpenAI } from '@langchain/openai';
import { baseURL, EXTRACT, Event, FAIR, fair, FRANCE, location, model as name, PARIS, STORY, sunny, weather } from './demo.mjs';

const model = new ChatOpenAI({ model: name, temperature: 0, maxRetries: 0, apiKey: 'none', configuration: { baseURL } });
const getWeather = tool(async () => JSON.stringify(sunny), { ...weather, schema: location });

test('invoke', async () => {
  const answer = await model.invoke([new SystemMessage('Be brief.'), new HumanMessage(FRANCE)]);
  assert.match(answer.text, /Paris/);
  assert.equal(answer.response_metadata.finish_reason, 'stop');
  const { input_tokens, output_tokens, total_tokens } = answer.usage_metadata;
  assert(output_tokens > 0 && total_tokens === input_tokens + output_tokens);
});

test('stream', async () => {
  const chunks = [];
  for await (const chunk of await model.stream(STORY)) chunks.push(chunk);
  assert(chunks.filter((chunk) => chunk.text).length > 5, `${chunks.length} chunks`);
  const whole = chunks.reduce((sum, chunk) => sum.concat(chunk));
  assert(whole instanceof AIMessageChunk);
  assert.match(whole.text, /fox/);
  assert.equal(whole.text, (await model.invoke(STORY)).text);
  assert(whole.usage_metadata.output_tokens > 5);
});

test('batch', async () => {
  const answers = await model.batch([FRANCE, 'What is the capital of Japan?']);
  assert.match(answers[0].text, /Paris/);
  assert.match(answers[1].text, /Tokyo/);
});

test('a bound tool is called and its result used', async () => {
  const bound = model.bindTools([getWeather]);
  const messages = [new HumanMessage(PARIS)];
  const call = await bound.invoke(messages);
  assert.deepEqual(call.tool_calls.map(({ name, args }) => [name, args]), [[weather.name, { location: 'Paris' }]]);
  messages.push(call, await getWeather.invoke(call.tool_calls[0]));
  assert.equal(messages[2].tool_call_id, call.tool_calls[0].id);
  const { text } = await bound.invoke(messages);
  assert(['Paris', '17', 'sunny'].every((part) => text.includes(part)), text);
});

test('a tool call gathers from a stream', async () => {
  let call;
  for await (const chunk of await model.bindTools([getWeather]).stream(PARIS)) call = call ? call.concat(chunk) : chunk;
  assert.deepEqual(call.tool_calls.map(({ name, args }) => [name, args]), [[weather.name, { location: 'Paris' }]]);
});

for (const method of ['jsonSchema', 'functionCalling']) {
  test(`withStructuredOutput by ${method}`, async () => {
    const structured = model.withStructuredOutput(Event, { name: 'event', method, strict: true });
    assert.deepEqual(await structured.invoke([new SystemMessage(EXTRACT), new HumanMessage(FAIR)]), fair);
  });
}

test('errors are typed', async () => {
  const missing = new ChatOpenAI({ model: 'gpt-4o', maxRetries: 0, apiKey: 'none', configuration: { baseURL } });
  await assert.rejects(missing.invoke(FRANCE), { status: 404, code: 'model_not_found', lc_error_code: 'MODEL_NOT_FOUND' });
});
