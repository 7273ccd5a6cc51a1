/** A conversation's messages are a tree: siblings are versions of one turn, the shown thread ends in the head. */

import type { Message, ToolCall } from "./types";

export type Tree = Record<string, Message>;

/** From the first message down to `head`. */
export function path(tree: Tree, head: string | null): Message[] {
  const found: Message[] = [];
  const seen = new Set<string>();
  for (let at = head; at !== null && !seen.has(at); ) {
    const message: Message | undefined = tree[at];
    if (!message) break;
    seen.add(at);
    found.unshift(message);
    at = message.parent;
  }
  return found;
}

/** All versions of a message's turn, oldest first; itself among them. */
export function versions(tree: Tree, message: Message): Message[] {
  return Object.values(tree)
    .filter((one) => one.parent === message.parent && one.role === message.role)
    .sort((a, b) => a.created_at - b.created_at);
}

/** The newest end below a message: where its branch is gone on with. */
export function leaf(tree: Tree, id: string): string {
  let at = id;
  for (;;) {
    const below = Object.values(tree).filter((one) => one.parent === at);
    const newest = below.reduce<Message | null>((best, one) => (best && best.created_at > one.created_at ? best : one), null);
    if (!newest) return at;
    at = newest.id;
  }
}

export interface Piece {
  index: number;
  id?: string;
  name?: string;
  arguments?: string;
}

/** The calls with one more piece: a name comes once, arguments bit by bit. */
export function withPiece(calls: ToolCall[], piece: Piece): ToolCall[] {
  const next = [...calls];
  const old = next[piece.index] ?? { id: "", name: "", arguments: "" };
  next[piece.index] = {
    id: piece.id ?? old.id,
    name: old.name || (piece.name ?? ""),
    arguments: old.arguments + (piece.arguments ?? ""),
  };
  return next;
}
