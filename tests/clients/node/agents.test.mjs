// OpenAI's Agents SDK by both APIs that it speaks.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  Agent, handoff, MaxTurnsExceededError, MemorySession, OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner,
  setTracingDisabled, tool,
} from '@openai/agents';
import { removeAllTools } from '@openai/agents-core/extensions';
import OpenAI, { BadRequestError, NotFoundError } from 'openai';
import { baseURL, EXTRACT, Event, FAIR, fair, FRANCE, location, model as name, PARIS, STORY, sunny, weather } from './demo.mjs';

setTracingDisabled(true);
const client = new OpenAI({ baseURL, apiKey: 'none', maxRetries: 0 });
const runner = new Runner();

for (const Api of [OpenAIResponsesModel, OpenAIChatCompletionsModel]) {
  const agent = (more, model = name) =>
    new Agent({ name: 'assistant', model: new Api(client, model), modelSettings: { temperature: 0 }, ...more });
  const forced = (toolChoice) => ({ modelSettings: { temperature: 0, toolChoice } });
  const types = (result) => result.newItems.map((item) => item.type);
  const isTold = (text) => assert(['Paris', '17', 'sunny'].every((part) => text.includes(part)), text);
  const asked = [];
  const getWeather = tool({
    ...weather, parameters: location, execute: async (input) => {
      asked.push(input);
      return JSON.stringify(sunny);
    },
  });

  test(`${Api.name}: an answer`, async () => {
    const result = await runner.run(agent({ instructions: 'Be brief.' }), FRANCE);
    assert.match(result.finalOutput, /Paris/);
    assert.deepEqual(types(result), ['message_output_item']);
    const { requests, inputTokens, outputTokens, totalTokens } = result.state.usage;
    assert(requests === 1 && inputTokens > 0 && outputTokens > 0 && totalTokens === inputTokens + outputTokens);
  });

  test(`${Api.name}: a streamed answer`, async () => {
    const result = await runner.run(agent(), STORY, { stream: true });
    const pieces = [];
    for await (const piece of result.toTextStream()) pieces.push(piece);
    await result.completed;
    assert.match(result.finalOutput, /fox/);
    assert.equal(pieces.join(''), result.finalOutput);
    assert(pieces.length > 5, `${pieces.length} pieces`);
    assert.equal((await runner.run(agent(), STORY)).finalOutput, result.finalOutput);
  });

  test(`${Api.name}: a tool is called and its result used`, async () => {
    for (const stream of [false, true]) {
      asked.length = 0;
      const result = await runner.run(agent({ tools: [getWeather] }), PARIS, { stream });
      if (stream) await result.completed;
      assert.deepEqual(asked, [{ location: 'Paris' }]);
      assert.deepEqual(types(result), ['tool_call_item', 'tool_call_output_item', 'message_output_item']);
      isTold(result.finalOutput);
    }
  });

  test(`${Api.name}: calls without end are ended`, async () => {
    asked.length = 0;
    const endless = agent({ tools: [getWeather], resetToolChoice: false, ...forced('required') });
    await assert.rejects(runner.run(endless, PARIS, { maxTurns: 2 }), MaxTurnsExceededError);
    assert.deepEqual([asked.length, asked[0]], [2, { location: 'Paris' }]);
  });

  test(`${Api.name}: output of a type`, async () => {
    const result = await runner.run(agent({ instructions: EXTRACT, outputType: Event }), FAIR);
    assert.deepEqual(result.finalOutput, fair);
  });

  test(`${Api.name}: a handoff`, async () => {
    const other = agent({ name: 'weather', tools: [getWeather] });
    // The embedded model never saw a handoff: so it must, and does not see it afterwards.
    const front = agent({
      handoffs: [handoff(other, { inputFilter: removeAllTools })], ...forced('transfer_to_weather'),
    });
    const result = await runner.run(front, PARIS);
    assert.equal(result.lastAgent.name, 'weather');
    isTold(result.finalOutput);
    // One that sees it takes it.
    const whole = await runner.run(agent({ handoffs: [handoff(other)], ...forced('transfer_to_weather') }), PARIS);
    assert.deepEqual(types(whole), ['handoff_call_item', 'handoff_output_item', 'message_output_item']);
    assert(whole.finalOutput.length > 0);
  });

  test(`${Api.name}: a session`, async () => {
    const session = new MemorySession();
    await runner.run(agent(), 'My name is Anna.', { session });
    assert.match((await runner.run(agent(), 'What is my name?', { session })).finalOutput, /Anna/);
    assert.deepEqual((await session.getItems()).map((item) => item.role), ['user', 'assistant', 'user', 'assistant']);
  });

  test(`${Api.name}: errors`, async () => {
    const rejects = async (ask, Type, wanted) =>
      assert.rejects(ask, (error) => {
        assert(error instanceof Type, error.stack);
        assert.deepEqual({ param: error.param, code: error.code }, wanted);
        return true;
      });
    await rejects(runner.run(agent({}, 'gpt-4o'), FRANCE), NotFoundError, { param: 'model', code: 'model_not_found' });
    await rejects(
      runner.run(agent({ modelSettings: { temperature: 3 } }), FRANCE), BadRequestError, { param: 'temperature', code: null },
    );
  });
}

test('the next turn by the id of the one before', async () => {
  const agent = new Agent({ name: 'assistant', model: new OpenAIResponsesModel(client, name), modelSettings: { temperature: 0 } });
  const { lastResponseId: previousResponseId } = await runner.run(agent, 'My name is Anna.');
  assert.match((await runner.run(agent, 'What is my name?', { previousResponseId })).finalOutput, /Anna/);
  assert.doesNotMatch((await runner.run(agent, 'What is my name?')).finalOutput, /Anna/);
});
