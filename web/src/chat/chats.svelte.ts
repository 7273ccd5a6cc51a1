/** The conversations this page shows, and the one that is open: kept on the server, so other devices show the same. */

import { ApiError, get, post, remove, stream } from "../lib/api";
import { t } from "../lib/i18n";
import { router } from "../lib/router.svelte";
import { toasts } from "../lib/toasts.svelte";
import { leaf, path, withPiece, type Piece, type Tree } from "./thread";
import type { Conversation, Message, ToolResult } from "./types";

const ROOT = "/api/page/conversations";
const PAGE = 50;

interface Opened extends Conversation {
  messages: Message[];
}

export interface Said {
  text: string;
  images: { source: string; preview: string }[];
  results?: ToolResult[];
}

/** What holds in a conversation. */
export type Wishes = Pick<Conversation, "system_prompt" | "sampling" | "tools" | "tool_choice">;

const PLAIN: Wishes = { system_prompt: "", sampling: {}, tools: [], tool_choice: null };

class Chats {
  list = $state<Conversation[]>([]);
  listed = $state(false);
  next = $state<number | null>(null);
  query = $state("");
  current = $state<Conversation | null>(null);
  tree = $state<Tree>({});
  head = $state<string | null>(null);
  /** The reply that is coming in. */
  running = $state<string | null>(null);
  /** Sent, and not yet heard of again. */
  pending = $state<Said | null>(null);
  /** Of the conversation that begins with the next message. */
  fresh = $state<Wishes>({ ...PLAIN });
  missing = $state(false);
  thread = $derived(path(this.tree, this.head));
  #listening: AbortController | null = null;
  /** The words of a message that was given back and turned out to be there. */
  turnedUp = $state<string | null>(null);
  /** What was sent last and never heard of: it may be there all the same, so it goes again under the same key. */
  #unheard: { words: string; key: string; conversation: string; parent: string | null; text: string; before: number } | null = null;

  get busy(): boolean {
    return this.running !== null || this.pending !== null;
  }

  async reload(more = false): Promise<void> {
    const query = this.query.trim();
    const words = query ? `&q=${encodeURIComponent(query)}` : "";
    const before = more && this.next !== null ? `&before=${this.next}` : "";
    const found = await get<{ conversations: Conversation[]; next: number | null }>(
      `${ROOT}?limit=${PAGE}${words}${before}`,
    );
    if (query !== this.query.trim()) return; // A newer question is on its way.
    this.list = more ? [...this.list, ...found.conversations] : found.conversations;
    this.next = found.next;
    this.listed = true;
    // The server names a conversation by its first words.
    const open = found.conversations.find((one) => one.id === this.current?.id);
    if (open && this.current) this.current = { ...this.current, title: open.title, titled: open.titled };
  }

  /** Shows a conversation, and goes on with a reply that is still coming. */
  async open(id: string | null): Promise<void> {
    if (id === (this.current?.id ?? null) && !this.missing) return;
    this.#hangUp();
    this.missing = false;
    this.current = null;
    this.tree = {};
    this.head = null;
    if (id !== null) await this.#read(id);
  }

  /** Reads the open conversation anew: after the server was away. */
  async refresh(): Promise<void> {
    void this.reload().catch(() => undefined);
    const id = this.current?.id;
    if (!id) return;
    this.#hangUp();
    await this.#read(id);
  }

  async #read(id: string): Promise<void> {
    let found: Opened;
    try {
      found = await get<Opened>(`${ROOT}/${encodeURIComponent(id)}`);
    } catch (error) {
      if (error instanceof ApiError && error.status === 404) this.missing = true;
      else if (!(error instanceof ApiError && error.isOffline)) toasts.fail(error);
      return;
    }
    const { messages, ...conversation } = found;
    this.current = conversation;
    this.tree = Object.fromEntries(messages.map((message) => [message.id, message]));
    this.head = conversation.head;
    const lost = this.#unheard;
    if (lost?.conversation === id && this.#alike(lost.parent, lost.text) > lost.before) {
      this.#unheard = null;
      this.turnedUp = lost.text;
    }
    if (conversation.running) void this.#listen(`${ROOT}/${id}/events`);
  }

  /** Says something after `parent`, in a new conversation if none is open. */
  async say(said: Said, parent: string | null): Promise<boolean> {
    if (this.busy) return false;
    this.pending = said;
    const shown = this.head;
    this.head = parent;
    const id = await this.#conversation().catch((error: unknown) => this.#failed(error));
    const images = said.images.map((image) => image.source);
    const body = { parent, text: said.text, images, tool_results: said.results ?? [] };
    const words = JSON.stringify([id, body]);
    const key = this.#unheard?.words === words ? this.#unheard.key : randomKey();
    const before = this.#alike(parent, said.text);
    this.#unheard = id === null ? null : { words, key, conversation: id, parent, text: said.text, before };
    const heard = id !== null && (await this.#listen(`${ROOT}/${id}/reply`, { ...body, key }));
    if (heard) this.#unheard = null;
    this.pending = null;
    if (!heard) this.head = shown;
    return heard;
  }

  #alike(parent: string | null, text: string): number {
    return Object.values(this.tree).filter((one) => one.role === "user" && one.parent === parent && one.text === text).length;
  }

  /** Another answer to the message that `reply` answers. */
  async regenerate(reply: Message): Promise<void> {
    if (this.busy || !this.current || reply.parent === null) return;
    this.head = reply.parent;
    const heard = await this.#listen(`${ROOT}/${this.current.id}/reply`, { parent: reply.parent });
    if (!heard) this.head = leaf(this.tree, reply.id);
  }

  async stop(): Promise<void> {
    if (!this.current || this.running === null) return;
    await post(`${ROOT}/${this.current.id}/stop`).catch((error: unknown) => toasts.fail(error));
  }

  /** Shows another version of a turn. */
  async turnTo(message: Message): Promise<void> {
    this.head = leaf(this.tree, message.id);
    if (this.current) await this.change(this.current.id, { head: this.head });
  }

  /** Whether the server would have it. */
  async change(id: string, body: Partial<Wishes & Pick<Conversation, "title" | "head">>): Promise<boolean> {
    try {
      const changed = await post<Conversation>(`${ROOT}/${id}`, body);
      if (this.current?.id === id) this.current = { ...this.current, ...changed };
      this.list = this.list.map((one) => (one.id === id ? { ...one, ...changed } : one));
      return true;
    } catch (error) {
      toasts.fail(error);
      return false;
    }
  }

  async delete(id: string): Promise<void> {
    try {
      await remove(`${ROOT}/${id}`);
    } catch (error) {
      toasts.fail(error);
      return;
    }
    this.list = this.list.filter((one) => one.id !== id);
    if (this.current?.id === id) router.go("/");
  }

  async #conversation(): Promise<string> {
    if (this.current) return this.current.id;
    const made = await post<Conversation>(ROOT, this.fresh);
    this.current = made;
    this.tree = {};
    this.fresh = { ...PLAIN };
    router.go(`/c/${made.id}`, { replace: true });
    return made.id;
  }

  #failed(error: unknown): null {
    toasts.say(error instanceof ApiError && !error.isOffline ? error.message : t("state.not_sent"), true);
    return null;
  }

  #hangUp(): void {
    this.#listening?.abort();
    this.#listening = null;
    this.running = null;
    this.pending = null;
  }

  /** Takes in the events of a reply; false: it never began. */
  async #listen(path: string, body?: unknown): Promise<boolean> {
    const listening = new AbortController();
    this.#listening = listening;
    let begun = false;
    try {
      const asked = body === undefined ? {} : { method: "POST" as const, body };
      for await (const { event, data } of stream(path, { ...asked, signal: listening.signal })) {
        if (listening.signal.aborted) break;
        begun = true;
        this.#take(event, JSON.parse(data));
      }
    } catch (error) {
      if (!listening.signal.aborted) {
        if (error instanceof ApiError && error.code === "already_said" && this.current) {
          begun = true;
          this.pending = null;
          void this.#read(this.current.id);
        } else if (!begun) this.#failed(error);
        else if (!(error instanceof ApiError && error.isOffline)) toasts.fail(error);
      }
    }
    if (this.#listening === listening) {
      this.#listening = null;
      this.running = null;
      void this.reload().catch(() => undefined);
    }
    return begun || listening.signal.aborted;
  }

  #take(event: string, data: unknown): void {
    const reply = this.running === null ? undefined : this.tree[this.running];
    switch (event) {
      case "start": {
        const { user, reply: begun } = data as { user: Message | null; reply: Message };
        if (user) this.tree[user.id] = user;
        this.tree[begun.id] = begun;
        this.head = begun.id;
        this.running = begun.id;
        this.pending = null;
        break;
      }
      case "delta":
        if (reply) reply.text += (data as { text: string }).text;
        break;
      case "reasoning": {
        const { text, retracts } = data as { text: string; retracts: boolean };
        if (!reply) break;
        if (retracts) {
          reply.reasoning += reply.text;
          reply.text = "";
        }
        reply.reasoning += text;
        break;
      }
      case "tool_call":
        if (reply) reply.tool_calls = withPiece(reply.tool_calls, data as Piece);
        break;
      case "done":
        this.#end(data as Message);
        break;
      case "error": {
        const { error, reply: ended } = data as { error: { message: string }; reply?: Message };
        if (ended) this.#end(ended);
        else toasts.say(error.message, true);
        break;
      }
    }
  }

  #end(message: Message): void {
    this.tree[message.id] = message;
    if (this.running === message.id) this.running = null;
  }
}

function randomKey(): string {
  return [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

export const chats = new Chats();
