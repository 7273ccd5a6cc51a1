import { describe, expect, it } from "vitest";

import { EventParser, events } from "../src/lib/sse";

const told = 'event: start\ndata: {"a":1}\n\n: ping\n\ndata: one\ndata: two\n\nevent: done\r\ndata: 好\r\n\r\n';
const whole = [
  { event: "start", data: '{"a":1}' },
  { event: "message", data: "one\ntwo" },
  { event: "done", data: "好" },
];

describe("server-sent events", () => {
  it("are the same however the text is cut", () => {
    for (let size = 1; size <= told.length; size++) {
      const parser = new EventParser();
      const found = [];
      for (let at = 0; at < told.length; at += size) found.push(...parser.feed(told.slice(at, at + size)));
      expect(found, `pieces of ${size}`).toEqual(whole);
    }
  });

  it("come from bytes cut inside a letter; what is not ended is none", async () => {
    const bytes = new TextEncoder().encode(told + "data: half");
    const body = new ReadableStream<Uint8Array>({
      start(controller) {
        for (const byte of bytes) controller.enqueue(new Uint8Array([byte]));
        controller.close();
      },
    });
    const found = [];
    for await (const event of events(body)) found.push(event);
    expect(found).toEqual(whole);
  });
});
