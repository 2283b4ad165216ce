// The server's API, as this page needs it.

function headers(key) {
  return { "content-type": "application/json", ...(key ? { authorization: `Bearer ${key}` } : {}) };
}

async function checked(response) {
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  throw new Error(body?.error?.message ?? `The server answered ${response.status}.`);
}

export async function models(key) {
  const response = await checked(await fetch("/v1/models", { headers: headers(key) }));
  return (await response.json()).data;
}

/** The events of a streamed chat completion. */
export async function* chat(body, key, signal) {
  const request = { ...body, stream: true, stream_options: { include_usage: true } };
  const response = await checked(
    await fetch("/v1/chat/completions", { method: "POST", headers: headers(key), body: JSON.stringify(request), signal }),
  );
  let buffer = "";
  for await (const text of texts(response.body)) {
    buffer += text;
    const lines = buffer.split("\n");
    buffer = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data: ")) continue;
      if (line === "data: [DONE]") return;
      const event = JSON.parse(line.slice(6));
      if (event.error) throw new Error(event.error.message);
      yield event;
    }
  }
  throw new Error("The connection ended before the answer did.");
}

async function* texts(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (let part = await reader.read(); !part.done; part = await reader.read()) yield part.value;
  } finally {
    reader.cancel().catch(() => {});
  }
}
