// @ts-check
// Server-sent events from a fetch, because EventSource cannot send the header of a token.

import { parseJson } from "./numbers.js";

/** The connection ended in the middle of the events. */
export class ConnectionLost extends Error {}

/** Yield {event, data, id} for each event of a stream of bytes; comments are skipped. */
export async function* readEvents(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let lines = [];
  try {
    for (;;) {
      const { value, done } = await read(reader);
      if (done) return;
      const parts = (rest + value).split("\n");
      rest = parts.pop();
      for (const part of parts) {
        const line = part.endsWith("\r") ? part.slice(0, -1) : part;
        if (line) {
          lines.push(line);
          continue;
        }
        const event = parseEvent(lines);
        lines = [];
        if (event) yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

async function read(reader) {
  try {
    return await reader.read();
  } catch (error) {
    throw error.name === "AbortError" ? error : new ConnectionLost(error.message);
  }
}

/** Return the event of its lines, or null if they have no data. */
export function parseEvent(lines) {
  const event = { event: "message", data: null, id: null };
  const data = [];
  for (const line of lines) {
    const colon = line.indexOf(":");
    if (colon === 0) continue;
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "data") data.push(value);
    else if (field === "event") event.event = value;
    else if (field === "id") event.id = value;
  }
  if (!data.length) return null;
  event.data = parseJson(data.join("\n"));
  return event;
}
