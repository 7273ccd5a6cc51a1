import { describe, expect, it } from "vitest";

import { leaf, path, versions, withPiece, type Tree } from "../src/chat/thread";
import type { Message } from "../src/chat/types";

function tree(...rows: [id: string, parent: string | null, role: Message["role"]][]): Tree {
  return Object.fromEntries(
    rows.map(([id, parent, role], at) => [
      id,
      { id, parent, role, text: id, images: [], reasoning: "", tool_calls: [], status: "done", created_at: at } as unknown as Message,
    ]),
  );
}

const edited = tree(
  ["q1", null, "user"],
  ["a1", "q1", "assistant"],
  ["q2", "a1", "user"],
  ["a2", "q2", "assistant"],
  ["q1b", null, "user"],
  ["a1b", "q1b", "assistant"],
  ["a1c", "q1b", "assistant"],
);

describe("a thread", () => {
  it("is what leads to its head", () => {
    expect(path(edited, "a2").map((one) => one.id)).toEqual(["q1", "a1", "q2", "a2"]);
    expect(path(edited, null)).toEqual([]);
    expect(path(edited, "gone")).toEqual([]);
  });

  it("knows the versions of an edited and of a regenerated turn", () => {
    const [q1, a1b] = [edited.q1, edited.a1b];
    if (!q1 || !a1b) throw new Error("lost");
    expect(versions(edited, q1).map((one) => one.id)).toEqual(["q1", "q1b"]);
    expect(versions(edited, a1b).map((one) => one.id)).toEqual(["a1b", "a1c"]);
  });

  it("goes on at the newest end of a branch", () => {
    expect(leaf(edited, "q1")).toBe("a2");
    expect(leaf(edited, "q1b")).toBe("a1c");
  });
});

describe("a tool call", () => {
  it("is put together of its pieces", () => {
    let calls = withPiece([], { index: 0, id: "c1", name: "look", arguments: '{"a"' });
    calls = withPiece(calls, { index: 0, arguments: ": 1}" });
    calls = withPiece(calls, { index: 1, id: "c2", name: "say" });
    expect(calls).toEqual([
      { id: "c1", name: "look", arguments: '{"a": 1}' },
      { id: "c2", name: "say", arguments: "" },
    ]);
  });
});
