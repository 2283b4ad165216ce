// llmprobe, unchanged, with a home of its own and no network but the server. Whatever it holds for a MUST must pass; what
// it says of the embedded model's wit is not looked at.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { before, test } from 'node:test';

const address = process.env.MOESAIC_DEMO_URL;
if (!address) throw new Error('MOESAIC_DEMO_URL must be the address of `moesaic --port 0`, without /v1');
const here = import.meta.dirname;

/** What is beyond a model of text alone, or beyond llmprobe. */
const UNSUPPORTED = [
  'audio-speech', 'chat-vision', 'embeddings-dimensions', 'images-edit', 'images-generate', 'messages-vision',
  'responses-vision',
  // Nobody's requests are counted here.
  'chat-rate-limit-headers', 'messages-rate-limit-headers', 'responses-rate-limit-headers',
  // llmprobe asks neither of any server.
  'responses-mcp-tools', 'responses-reasoning-roundtrip',
];

let results;

/** The MUSTs that a test of llmprobe failed. */
const failures = (id) => results.find((result) => result.id === id).failures.filter(({ severity }) => severity === 'MUST');

before(async () => {
  const home = await mkdtemp(path.join(tmpdir(), 'moesaic-llmprobe-'));
  const guard = ['--import', path.join(here, 'only_here.mjs')];
  const probe = path.join(here, 'node_modules/llmprobe/bin/dist/llmprobe.mjs');
  const args = [...guard, probe, `${address}/v1`, '--no-save', '--no-bench', '-m', 'moesaic-demo', '--json'];
  const options = { cwd: home, env: { HOME: home, PATH: process.env.PATH }, timeout: 300_000, maxBuffer: 1 << 26 };
  try {
    const done = await new Promise((end) => {
      execFile(process.execPath, args, options, (error, out, complaints) => end({ code: error?.code ?? 0, out, complaints }));
    });
    // 1: something failed.
    assert([0, 1].includes(done.code), `${done.code}: ${done.complaints}`);
    const report = JSON.parse(done.out);
    assert.equal(report.run.phases.conformance.status, 'measured', done.complaints);
    results = report.conformance.results;
    console.log(`MUST: ${report.conformance.passed} of ${report.conformance.total}`);
    assert(report.conformance.total > 190);
  } finally {
    await rm(home, { recursive: true, force: true });
  }
});

test('every MUST passes', () => {
  const known = ['responses-streaming', 'responses-previous-response-id'];
  const failed = results.filter(({ id }) => !known.includes(id) && failures(id).length > 0);
  assert.deepEqual(failed, []);
});

test('nothing else is taken for unsupported', () => {
  const unsupported = results.filter(({ outcome }) => outcome === 'unsupported').map(({ id }) => id);
  assert.deepEqual(unsupported.toSorted(), UNSUPPORTED.toSorted());
});

// llmprobe reads thoughts from OpenAI's `response.reasoning_text.delta`, as all clients do, but its schema, which is Open
// Responses', only knows that event as `response.reasoning.delta`, which OpenAI's SDKs do not know.
test('of the first events of a stream, only the thoughts are not in its schema', async () => {
  const sent = {
    model: 'moesaic-demo', input: 'Count from 1 to 5.', temperature: 0, reasoning: { effort: 'medium' }, stream: true,
  };
  const body = JSON.stringify(sent);
  const answer = await fetch(`${address}/v1/responses`, { method: 'POST', headers: { 'content-type': 'application/json' }, body });
  const lines = (await answer.text()).split('\n').filter((line) => line.startsWith('data: {')).slice(0, 12);
  const thoughts = lines.filter((line) => JSON.parse(line.slice(6)).type.startsWith('response.reasoning_text.'));
  const failed = failures('responses-streaming').map(({ id }) => id);
  assert.deepEqual(failed, thoughts.map(() => 'responses-stream-chunk-schema'));
});

// Seven million parameters do not remember a name that they were told two turns before. The turns must be in the prompt.
test('a response that goes on from another one has its turns', async () => {
  const failed = failures('responses-previous-response-id').map(({ id }) => id);
  assert.deepEqual(failed.filter((id) => id !== 'responses-chain-remembers'), []);
  const ask = async (body) => {
    const sent = JSON.stringify({ model: 'moesaic-demo', temperature: 0, ...body });
    const answer = await fetch(`${address}/v1/responses`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: sent });
    return answer.json();
  };
  const told = { role: 'user', content: 'My name is Ada. Remember it.' };
  const asked = { role: 'user', content: 'What is my name? Reply with just the name.' };
  const first = await ask({ input: [told] });
  const chained = await ask({ input: [asked], previous_response_id: first.id });
  const whole = await ask({ input: [told, ...first.output, asked] });
  assert.equal(chained.usage.input_tokens, whole.usage.input_tokens);
  assert.deepEqual(chained.output.map(({ content }) => content), whole.output.map(({ content }) => content));
});
