// The official OpenAI SDK, unchanged.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import OpenAI from 'openai';
import { zodFunction, zodResponseFormat } from 'openai/helpers/zod';
import {
  aborted, aborts, baseURL, EXTRACT, Event, FAIR, fair, FRANCE, location, model, PARIS, STORY, SUM, sunny, weather,
} from './demo.mjs';

const client = new OpenAI({ baseURL, apiKey: 'none', maxRetries: 0 });
const completions = client.chat.completions;
const tools = [zodFunction({ ...weather, parameters: location })];
const ask = (content, more) => ({ model, messages: [{ role: 'user', content }], temperature: 0, ...more });

test('chat, also with thoughts', async () => {
  const answer = await completions.create(ask(FRANCE));
  const [choice] = answer.choices;
  assert.match(choice.message.content, /Paris/);
  assert.deepEqual([answer.object, choice.message.role, choice.finish_reason], ['chat.completion', 'assistant', 'stop']);
  assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);
  for (const more of [{ reasoning_effort: 'low' }, { chat_template_kwargs: { thinking: true } }]) {
    const { message } = (await completions.create(ask(SUM, more))).choices[0];
    assert.match(message.reasoning_content, /7 \+ 8 = 15/);
    assert.match(message.content, /105/);
  }
});

test('a stream says what the whole answer says', async () => {
  const whole = await completions.create(ask(STORY));
  const stream = await completions.create(ask(STORY, { stream: true, stream_options: { include_usage: true } }));
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  const pieces = chunks.map((chunk) => chunk.choices[0]?.delta.content).filter(Boolean);
  assert(pieces.length > 5, `${pieces.length} pieces`);
  assert.match(pieces.join(''), /fox/);
  assert.equal(pieces.join(''), whole.choices[0].message.content);
  assert.deepEqual(chunks.map((chunk) => chunk.choices[0]?.finish_reason).filter(Boolean), ['stop']);
  assert.equal(chunks.at(-1).usage.completion_tokens, whole.usage.completion_tokens);
});

test('the stream helper gathers text and tool calls', async () => {
  const story = completions.stream(ask(STORY));
  let deltas = 0;
  story.on('content.delta', () => deltas++);
  assert.match(await story.finalContent(), /fox/);
  assert(deltas > 5, `${deltas} deltas`);
  let done;
  const call = completions.stream(ask(PARIS, { tools })).on('tool_calls.function.arguments.done', (event) => (done = event));
  const [choice] = (await call.finalChatCompletion()).choices;
  assert.equal(choice.finish_reason, 'tool_calls');
  assert.deepEqual(choice.message.tool_calls[0].function.parsed_arguments, { location: 'Paris' });
  assert.deepEqual([done.name, done.parsed_arguments], [weather.name, { location: 'Paris' }]);
});

test('a tool is called and its result used, by hand and by runTools', async () => {
  const question = ask(PARIS, { tools });
  const [choice] = (await completions.create(question)).choices;
  assert.equal(choice.finish_reason, 'tool_calls');
  const [call] = choice.message.tool_calls;
  assert.deepEqual([call.type, call.function.name, JSON.parse(call.function.arguments)], ['function', weather.name, { location: 'Paris' }]);
  question.messages.push(choice.message, { role: 'tool', tool_call_id: call.id, content: JSON.stringify(sunny) });
  const text = (await completions.create(question)).choices[0].message.content;
  assert(['Paris', '17', 'sunny'].every((part) => text.includes(part)), text);
  for (const stream of [false, true]) {
    const asked = [];
    const run = zodFunction({ ...weather, parameters: location, function: (input) => asked.push(input) && sunny });
    const runner = completions.runTools(ask(PARIS, { stream, tools: [run] }));
    assert.equal(await runner.finalContent(), text);
    assert.deepEqual(asked, [{ location: 'Paris' }]);
    assert.deepEqual(runner.messages.map((message) => message.role), ['user', 'assistant', 'tool', 'assistant']);
  }
});

test('an answer is parsed by its schema, whole and streamed', async () => {
  const request = ask(FAIR, { response_format: zodResponseFormat(Event, 'event') });
  request.messages.unshift({ role: 'system', content: EXTRACT });
  assert.deepEqual((await completions.parse(request)).choices[0].message.parsed, fair);
  assert.deepEqual((await completions.stream(request).finalChatCompletion()).choices[0].message.parsed, fair);
  await assert.rejects(completions.parse({ ...request, max_tokens: 2 }), OpenAI.LengthFinishReasonError);
});

test('an aborted stream ends at once, here and there', async () => {
  const before = await aborts();
  const stream = await completions.create(ask(STORY, { stream: true, max_tokens: 8000, ignore_eos: true }));
  let chunks = 0;
  // What has come in one read with the third chunk is still given out.
  for await (const _ of stream) if (++chunks === 3) stream.controller.abort();
  assert(chunks < 500, `${chunks} chunks`);
  await aborted(before);
});

test('models', async () => {
  const names = [];
  for await (const each of client.models.list()) names.push(each.id);
  assert.deepEqual(names, [model]);
  assert.equal((await client.models.retrieve(model)).object, 'model');
});

test('errors are typed', async () => {
  const { BadRequestError, NotFoundError } = OpenAI;
  const bad = { status: 400, type: 'invalid_request_error' };
  const missing = { status: 404, type: 'invalid_request_error', code: 'model_not_found' };
  for (const [request, type, expected] of [
    [() => completions.create(ask(FRANCE, { messages: [] })), BadRequestError, { ...bad, param: 'messages' }],
    [() => completions.create(ask(FRANCE, { temperature: 3, stream: true })), BadRequestError, { ...bad, param: 'temperature' }],
    [() => completions.create(ask('word '.repeat(70_000))), BadRequestError, { ...bad, param: 'messages', code: 'context_length_exceeded' }],
    [() => completions.create(ask(FRANCE, { model: 'gpt-4o' })), NotFoundError, missing],
    [() => client.models.retrieve('gpt-4o'), NotFoundError, { ...missing, param: 'model' }],
  ]) {
    const error = await request().then(() => assert.fail('no error'), (error) => error);
    assert(error instanceof type, `${error}`);
    for (const [name, value] of Object.entries(expected)) assert.equal(error[name], value, `${name} of ${error}`);
  }
});

test('responses: whole, streamed, and from one turn to the next', async () => {
  const first = await client.responses.create({ model, input: 'My name is Anna.', temperature: 0 });
  const stream = client.responses.stream({
    model, input: 'What is my name?', previous_response_id: first.id, temperature: 0,
  });
  const deltas = [];
  stream.on('response.output_text.delta', (event) => deltas.push(event.delta));
  const { output_text, status, usage } = await stream.finalResponse();
  assert.equal(status, 'completed');
  assert.match(output_text, /Anna/);
  assert.equal(deltas.join(''), output_text);
  assert.ok(deltas.length > 1 && usage.output_tokens > 0);
});
