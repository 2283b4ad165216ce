// What all clients here share: the server's address and the questions that the embedded model can answer.

import { z } from 'zod';

export const address = process.env.MOESAIC_DEMO_URL;
if (!address) throw new Error('MOESAIC_DEMO_URL must be the address of `moesaic --port 0`, without /v1');
export const baseURL = `${address}/v1`;
export const model = 'moesaic-demo';

export const FRANCE = 'What is the capital of France?';
export const STORY = 'Tell me a story about a fox.';
export const SUM = 'What is 47 + 58?';
export const PARIS = 'What is the weather in Paris?';

export const weather = { name: 'get_weather', description: 'Get current weather for a location.' };
export const location = z.object({ location: z.string() });
export const sunny = { temperature: 17, condition: 'sunny' };

export const EXTRACT = 'Extract the event information.';
export const FAIR = 'Alice and Bob are going to a science fair on Friday.';
export const Event = z.object({ name: z.string(), date: z.string(), participants: z.array(z.string()) });
export const fair = { name: 'science fair', date: 'Friday', participants: ['Alice', 'Bob'] };

/** How many requests the server has dropped because their client went away. */
export async function aborts() {
  const metrics = await (await fetch(`${address}/metrics`)).text();
  return Number(metrics.match(/^vllm:request_success_total\{finished_reason="abort".*\} (\d+)$/m)[1]);
}

/** Waits until one more has been dropped than `before`. */
export async function aborted(before) {
  for (let tries = 0; tries < 100; tries++) {
    if ((await aborts()) > before) return;
    await new Promise((done) => setTimeout(done, 20));
  }
  throw new Error('the dropped request still runs');
}
