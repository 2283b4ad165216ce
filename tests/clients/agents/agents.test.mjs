// Claude Code, Codex CLI, OpenCode and pi, unchanged, started by `moesaic launch`, each with a home of its own and no
// network but the server.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtemp, mkdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { between } from './between.mjs';

const address = process.env.MOESAIC_DEMO_URL;
if (!address) throw new Error('MOESAIC_DEMO_URL must be the address of `moesaic --port 0`, without /v1');
const here = import.meta.dirname;
const moesaic = path.resolve(here, '../../../target/release/moesaic');
const QUESTION = 'What is the capital of France?';
// Only who runs it can tell.
const COMMAND = 'expr 6 \\* 7000';
const RESULT = '42000';

/** How each is asked; what it prints is lines of JSON, which `text` finds the answer's pieces in. */
const agents = {
  claude: {
    args: '-p --verbose --output-format stream-json --include-partial-messages --allowedTools Bash --'.split(' '),
    tool: { name: 'Bash', args: { command: COMMAND, description: 'Multiply' } },
    text: (line) => (line.event?.delta?.type === 'text_delta' ? line.event.delta.text : undefined),
    streams: true,
  },
  codex: {
    args: ['exec', '--json', '--skip-git-repo-check', '--sandbox', 'danger-full-access'],
    tool: { name: 'exec_command', args: { cmd: COMMAND } },
    text: (line) => (line.type === 'item.completed' && line.item.type === 'agent_message' ? line.item.text : undefined),
  },
  opencode: {
    args: ['run', '--format', 'json', '--title', 'test'],
    tool: { name: 'bash', args: { command: COMMAND, description: 'Multiply' } },
    text: (line) => (line.type === 'text' ? line.part.text : undefined),
  },
  pi: {
    args: ['--mode', 'json', '-p'],
    tool: { name: 'bash', args: { command: COMMAND } },
    text: (line) => (line.assistantMessageEvent?.type === 'text_delta' ? line.assistantMessageEvent.delta : undefined),
    streams: true,
  },
};

/** No updates, no telemetry; and who asks another host hears nothing. */
const quiet = {
  CI: '1', NO_COLOR: '1', TERM: 'dumb',
  HTTP_PROXY: 'http://127.0.0.1:9', HTTPS_PROXY: 'http://127.0.0.1:9', NO_PROXY: '127.0.0.1,localhost',
  DISABLE_AUTOUPDATER: '1', DISABLE_TELEMETRY: '1', DISABLE_ERROR_REPORTING: '1',
  OPENCODE_DISABLE_AUTOUPDATE: '1', OPENCODE_DISABLE_MODELS_FETCH: '1', OPENCODE_DISABLE_LSP_DOWNLOAD: '1',
  OPENCODE_DISABLE_DEFAULT_PLUGINS: '1', OPENCODE_DISABLE_SHARE: '1',
  PI_OFFLINE: '1', PI_TELEMETRY: '0', PI_SKIP_VERSION_CHECK: '1',
};

/** Asks an agent, which runs to its end. */
async function ask(name, wanted) {
  const server = await between(address, wanted);
  const home = await mkdtemp(path.join(tmpdir(), `moesaic-${name}-`));
  const work = path.join(home, 'work');
  await mkdir(work);
  // opencode-ai is this program and a choice among platforms, which not every registry has all of.
  const bins = ['.bin', 'opencode-linux-x64-baseline/bin'].map((folder) => path.join(here, 'node_modules', folder));
  const env = { ...quiet, HOME: home, PATH: [...bins, process.env.PATH].join(':') };
  try {
    const child = spawn(moesaic, ['launch', name, '--url', server.url, '--', ...agents[name].args, QUESTION], {
      cwd: work, env, stdio: ['ignore', 'pipe', 'pipe'], timeout: 180_000, killSignal: 'SIGKILL',
    });
    let [out, complaints] = ['', ''];
    child.stdout.on('data', (part) => (out += part));
    child.stderr.on('data', (part) => (complaints += part));
    const code = await new Promise((done) => child.on('close', done));
    const requests = await server.close();
    const records = JSON.stringify(requests.map(({ sent, ...rest }) => rest));
    const report = [out, complaints, records].map((text) => text.slice(-3000)).join('\n');
    assert.equal(code, 0, report);
    const lines = out.split('\n').filter((line) => line.startsWith('{')).map((line) => JSON.parse(line));
    return { pieces: lines.map(agents[name].text).filter(Boolean), requests, report };
  } finally {
    await server.close();
    await rm(home, { recursive: true, force: true, maxRetries: 5 });
  }
}

/** The requests that the agent made of the model, all of which went well. */
function turns({ requests, report }) {
  for (const { status } of requests) assert(status < 400, report);
  return requests.filter(({ sent }) => sent?.stream && sent.tools);
}

for (const [name, { tool, streams }] of Object.entries(agents)) {
  test(`${name}: shows the answer as it is streamed`, async () => {
    const done = await ask(name);
    const [turn, ...more] = turns(done);
    assert.equal(more.length, 0, done.report);
    assert.equal(turn.model, 'moesaic-demo');
    assert(turn.pieces.length > 5, done.report);
    assert.equal(done.pieces.join(''), turn.pieces.join(''), done.report);
    assert.equal(typeof JSON.parse(done.pieces.join('')).answer, 'string');
    if (streams) assert(done.pieces.length > 5, done.report);
  });

  test(`${name}: carries out a call and sends the result back`, async () => {
    const done = await ask(name, tool);
    const [call, answer, ...more] = turns(done);
    assert.equal(more.length, 0, done.report);
    assert(call.tools.length > 1 && call.results.length === 0, done.report);
    assert.equal(answer.results.length, 1, done.report);
    assert.match(answer.results[0], new RegExp(RESULT));
    assert.equal(done.pieces.join(''), answer.pieces.join(''), done.report);
  });
}
