// A proxy between an agent and the server. It records what both say and adds to requests what makes a model of seven
// million parameters do an agent's work: while `wanted` is not done, the choice of that tool with these arguments; else
// the form of a short answer. Everything that comes back is the server's, passed on as it comes.

import http from 'node:http';

// Long enough to come in pieces, short enough to end soon.
const schema = {
  type: 'object',
  properties: { answer: { type: 'string', minLength: 20, maxLength: 40 } },
  required: ['answer'],
  additionalProperties: false,
};

/** The arguments, and no others, as a schema. */
const only = (args) => ({
  type: 'object',
  properties: Object.fromEntries(Object.entries(args).map(([name, value]) => [name, { type: 'string', const: value }])),
  required: Object.keys(args),
  additionalProperties: false,
});

/** What differs between the APIs. */
const apis = {
  '/v1/chat/completions': {
    turns: (body) => body.messages,
    results: (turn) => (turn.role === 'tool' ? [turn.content] : []),
    name: (tool) => tool.function?.name,
    choose: (body, { name, args }) => {
      body.tools = body.tools.filter((tool) => tool.function?.name === name);
      Object.assign(body.tools[0].function, { parameters: only(args), strict: true });
      body.tool_choice = { type: 'function', function: { name } };
    },
    answer: (body) => {
      if (body.tools) body.tool_choice = 'none';
      body.response_format = { type: 'json_schema', json_schema: { name: 'short', strict: true, schema } };
    },
    delta: (event) => event.choices?.[0]?.delta?.content,
  },
  '/v1/messages': {
    turns: (body) => body.messages,
    results: (turn) => (Array.isArray(turn.content) ? turn.content.filter((part) => part.type === 'tool_result') : []),
    name: (tool) => tool.name,
    choose: (body, { name, args }) => {
      body.tools = body.tools.filter((tool) => tool.name === name);
      body.tools[0].input_schema = only(args);
      body.tool_choice = { type: 'tool', name };
      delete body.thinking;
    },
    answer: (body) => {
      if (body.tools) body.tool_choice = { type: 'none' };
      body.output_config = { format: { type: 'json_schema', schema } };
      delete body.thinking;
    },
    delta: (event) => event.delta?.text,
  },
  '/v1/responses': {
    turns: (body) => body.input,
    results: (turn) => (turn.type === 'function_call_output' ? [turn.output] : []),
    name: (tool) => tool.name,
    choose: (body, { name, args }) => {
      body.tools = body.tools.filter((tool) => tool.name === name);
      Object.assign(body.tools[0], { parameters: only(args), strict: true });
      body.tool_choice = { type: 'function', name };
    },
    answer: (body) => {
      if (body.tools) body.tool_choice = 'none';
      body.text = { format: { type: 'json_schema', name: 'short', strict: true, schema } };
    },
    delta: (event) => (event.type === 'response.output_text.delta' ? event.delta : undefined),
  },
};

async function read(stream) {
  const parts = [];
  for await (const part of stream) parts.push(part);
  return Buffer.concat(parts);
}

/** The events of a stream. */
const events = (text) =>
  text.split('\n').filter((line) => line.startsWith('data: {')).map((line) => JSON.parse(line.slice(6)));

/** Starts the proxy. `close` gives what came through, to its end: status, results of tools, and pieces of the answer. */
export async function between(address, wanted) {
  const requests = [];
  const pending = [];
  const proxy = http.createServer(async (request, response) => {
    const path = request.url.split('?')[0];
    const api = request.method === 'POST' ? apis[path] : undefined;
    let body = await read(request);
    const seen = { method: request.method, path, results: [], pieces: [] };
    if (api) {
      const json = JSON.parse(body);
      Object.assign(seen, { sent: json, model: json.model, tools: json.tools?.map(api.name) ?? [] });
      seen.results = api.turns(json).flatMap(api.results).map((result) => JSON.stringify(result));
      const choose = wanted && seen.tools.includes(wanted.name) && seen.results.length === 0;
      (choose ? api.choose : api.answer)(json, wanted);
      body = Buffer.from(JSON.stringify(json));
    }
    const { host, 'content-length': length, ...headers } = request.headers;
    const onward = http.request(address + request.url, { method: request.method, headers }, (answer) => {
      response.writeHead(answer.statusCode, answer.headers);
      answer.pipe(response);
      const record = (text) => {
        Object.assign(seen, { status: answer.statusCode, error: answer.statusCode < 400 ? undefined : text });
        if (api) seen.pieces = events(text).map(api.delta).filter(Boolean);
        requests.push(seen);
      };
      // What the agent gave up says nothing.
      pending.push(read(answer).then((text) => record(text.toString()), () => {}));
    });
    onward.on('error', () => response.destroy());
    response.on('close', () => onward.destroy());
    onward.end(body);
  });
  await new Promise((done) => proxy.listen(0, '127.0.0.1', done));
  const close = async () => {
    proxy.close();
    await Promise.all(pending);
    return requests;
  };
  return { url: `http://127.0.0.1:${proxy.address().port}`, close };
}
