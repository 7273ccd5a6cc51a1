/** Server-sent events from a `fetch` body (WHATWG HTML, "Server-sent events"): EventSource cannot POST. */

export interface ServerEvent {
  event: string;
  data: string;
}

export async function* events(body: ReadableStream<Uint8Array>): AsyncGenerator<ServerEvent> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  const parser = new EventParser();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield* parser.feed(decoder.decode(value, { stream: true }));
    }
  } finally {
    // Whoever stops listening hangs up.
    void reader.cancel().catch(() => undefined);
  }
}

/** Takes text in pieces of any size; an event that is not ended by an empty line is none. */
export class EventParser {
  #rest = "";
  #event = "";
  #data: string[] = [];

  *feed(piece: string): Generator<ServerEvent> {
    this.#rest += piece;
    for (;;) {
      const end = /\r\n|\n|\r(?!$)/.exec(this.#rest);
      if (!end) return;
      const line = this.#rest.slice(0, end.index);
      this.#rest = this.#rest.slice(end.index + end[0].length);
      const whole = this.#take(line);
      if (whole) yield whole;
    }
  }

  #take(line: string): ServerEvent | null {
    if (line === "") {
      const whole = this.#data.length ? { event: this.#event || "message", data: this.#data.join("\n") } : null;
      this.#event = "";
      this.#data = [];
      return whole;
    }
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name === "event") this.#event = value;
    else if (name === "data") this.#data.push(value);
    return null;
  }
}
