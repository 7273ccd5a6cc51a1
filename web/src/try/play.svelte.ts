/** A play that is on: its script as it grows, the group's clock, and what became of each line. */

import { ApiError, get, post, remove } from "../lib/api";
import { t } from "../lib/i18n";
import { toasts } from "../lib/toasts.svelte";
import { bodyOf, isWords, mentioned, read, replyId, unmet, type Expectation, type Line, type Said, type Script, type Words } from "./script";

export interface Outcome {
  state: "waiting" | "done" | "failed";
  speaks: boolean;
  reason: string;
  said: Said[];
  warnings: string[];
  error: string;
  mergedInto: string | null;
  tokens: number;
  seconds: number;
  unmet: (keyof Expectation)[] | null;
}

export interface Why {
  score: number | null;
  cost_ms: number;
  effort: { window_lines: number; prompt_tokens: number; cached_tokens: number; seconds: number; model: string } | null;
}

interface Reply {
  should_reply: boolean;
  reply: string;
  reason: string | null;
  merged_into?: string | null;
  warnings: string[];
  usage: { prompt_tokens: number; completion_tokens: number };
  messages: { text?: string; segments?: { data: { text?: string; qq?: string } }[]; forward?: { name: string; text: string }[] }[];
}

/** A script that the server keeps. */
export interface KeptPlay {
  id: string;
  name: string;
  lines: number;
  updated_at: number;
}

const PLAYS = "/api/page/plays";
const STORE = "qqvl.tries";

function newGroup(): string {
  const letters = "abcdefghijkmnpqrstuvwxyz23456789";
  return `try-${[...crypto.getRandomValues(new Uint8Array(12))].map((byte) => letters[byte % letters.length]).join("")}`;
}

/** What a message of the door's says, as plain text. */
export function textOf(message: Reply["messages"][number], nameOf: (id: string) => string): string {
  if (message.text !== undefined) return message.text;
  if (message.segments)
    return message.segments.map(({ data }) => data.text ?? (data.qq ? `@${nameOf(data.qq)}` : "")).join("");
  return (message.forward ?? []).map((node) => `${node.name}：${node.text}`).join("\n");
}

export function freshScript(): Script {
  return {
    qqvl_try: 1,
    name: "",
    group: { name: t("try.group_name") },
    settings: {},
    bot: { id: "10000", name: "小Q" },
    members: [
      { id: "20001", name: "小明", card: "", role: "owner", is_bot: false },
      { id: "20002", name: "小红", card: "", role: "member", is_bot: false },
      { id: "20003", name: "老王", card: "", role: "admin", is_bot: false },
    ],
    lines: [],
  };
}

class Play {
  script = $state<Script>(freshScript());
  group = $state(newGroup());
  outcomes = $state<Record<string, Outcome>>({});
  recalled = $state<Record<string, boolean>>({});
  speaker = $state("20001");
  quoting = $state<string | null>(null);
  speed = $state(1);
  replaying = $state(false);
  saved = $state<KeptPlay[]>([]);
  listed = $state(false);
  #began = Date.now() / 1000;
  #skipped = 0;
  #since = Date.now() / 1000;
  #settled = false;
  #settling: Promise<void> = Promise.resolve();

  /** Seconds since the play began, by the group's clock. */
  elapsed(now = Date.now() / 1000): number {
    return Math.max(0, this.#skipped + (now - this.#since) * this.speed);
  }

  at(elapsed: number): number {
    return this.#began + elapsed;
  }

  setSpeed(speed: number): void {
    this.#skipped = this.elapsed();
    this.#since = Date.now() / 1000;
    this.speed = speed;
  }

  skip(seconds: number): void {
    this.#skipped += seconds;
  }

  nameOf(id: string): string {
    const member = this.script.members.find((one) => one.id === id);
    return member ? member.card || member.name : id === this.script.bot.id ? this.script.bot.name : id;
  }

  /** What a line or a reply says and who said it; null if it is gone. */
  quoted(id: string | null): { id: string; text: string; from: string } | null {
    if (!id || this.recalled[id]) return null;
    const line = this.script.lines.find((one) => one.id === id);
    if (line && isWords(line)) return { id, text: line.text, from: line.from };
    for (const outcome of Object.values(this.outcomes)) {
      const said = outcome.said.find((one) => one.id === id);
      if (said) return { id, text: said.text, from: this.script.bot.id };
    }
    return null;
  }

  open(script: Script): void {
    this.#throwAway();
    this.script = script;
    this.speaker = script.members[0]?.id ?? "";
    this.#begin();
  }

  #begin(): void {
    this.group = newGroup();
    this.outcomes = {};
    this.recalled = {};
    this.quoting = null;
    this.#began = Date.now() / 1000;
    this.#since = this.#began;
    this.#skipped = 0;
    this.#settled = false;
  }

  /** The group's own settings go before its next line. */
  settingsChanged(settings: Record<string, unknown>): void {
    const gone = Object.keys(this.script.settings).filter((name) => !(name in settings));
    this.script.settings = settings;
    this.#settling = this.#settle(Object.fromEntries(gone.map((name) => [name, null])));
  }

  async #settle(gone: Record<string, null> = {}): Promise<void> {
    this.#settled = true;
    const settings = { ...gone, ...this.script.settings };
    if (!Object.keys(settings).length) return;
    try {
      await post(`/admin/chats/group/${this.group}/settings`, settings);
    } catch (error) {
      this.#settled = false;
      toasts.fail(error);
    }
  }

  async say(text: string, images: string[]): Promise<void> {
    const line: Words = {
      id: this.#nextId(),
      at_s: Math.round(this.elapsed() * 10) / 10,
      from: this.speaker,
      text,
      at: mentioned(this.script, text),
      quote: this.quoted(this.quoting) ? this.quoting : null,
      images,
    };
    this.quoting = null;
    this.script.lines.push(line);
    await this.#send(line);
  }

  async recall(id: string): Promise<void> {
    const line: Line = { id: this.#nextId(), at_s: Math.round(this.elapsed() * 10) / 10, recall: id };
    this.script.lines.push(line);
    await this.#recall(line.recall);
  }

  #nextId(): string {
    const most = Math.max(0, ...this.script.lines.map((line) => Number(/^l(\d+)$/.exec(line.id)?.[1] ?? 0)));
    return `l${most + 1}`;
  }

  async #send(line: Words): Promise<void> {
    if (!this.#settled) this.#settling = this.#settle();
    await this.#settling;
    const group = this.group;
    const outcome: Outcome = {
      state: "waiting",
      speaks: false,
      reason: "",
      said: [],
      warnings: [],
      error: "",
      mergedInto: null,
      tokens: 0,
      seconds: 0,
      unmet: null,
    };
    this.outcomes[line.id] = outcome;
    const began = performance.now();
    let next: Partial<Outcome>;
    try {
      const body = bodyOf(this.script, line, { id: group, began: this.#began }, this.quoted(line.quote));
      const reply = await post<Reply>("/api/chat/group", body);
      const said = reply.messages.map((message, index) => ({
        id: replyId(line.id, index),
        text: textOf(message, (id) => this.nameOf(id)),
      }));
      next = {
        state: "done",
        speaks: reply.should_reply,
        reason: reply.reason ?? "",
        said,
        warnings: reply.warnings,
        mergedInto: reply.merged_into ?? null,
        tokens: reply.usage.completion_tokens,
        seconds: (performance.now() - began) / 1000,
        unmet: line.expect
          ? unmet(line.expect, { speaks: reply.should_reply, reason: reply.reason ?? "", text: reply.reply })
          : null,
      };
      if (said.length) await this.#report(group, line.id, said);
    } catch (error) {
      const told = error instanceof ApiError && !error.isOffline ? error.message : t("state.not_sent");
      next = { state: "failed", error: told };
    }
    // Another play may have begun meanwhile.
    if (this.group === group) this.outcomes[line.id] = { ...outcome, ...next };
  }

  async #report(group: string, line: string, said: Said[]): Promise<void> {
    const body = { group_id: group, self_id: this.script.bot.id, message_id: line, sent_ids: said.map((one) => one.id) };
    const { withdraw } = await post<{ withdraw?: string[] }>("/api/chat/group/sent", body);
    for (const id of withdraw ?? []) this.recalled[id] = true;
  }

  async #recall(id: string): Promise<void> {
    this.recalled[id] = true;
    const body = { group_id: this.group, message_id: id, self_id: this.script.bot.id };
    try {
      const { withdraw } = await post<{ withdraw: string[] }>("/api/chat/group/recall", body);
      for (const other of withdraw) this.recalled[other] = true;
    } catch (error) {
      toasts.fail(error);
    }
  }

  /** The same lines in a new group, by their own clock; each waits for the one before. */
  async replay(): Promise<void> {
    this.#throwAway();
    this.#begin();
    const group = this.group;
    this.replaying = true;
    try {
      for (const line of this.script.lines) {
        if (this.group !== group || !this.replaying) break;
        this.#skipped = Math.max(this.#skipped, line.at_s);
        this.#since = Date.now() / 1000;
        if (isWords(line)) await this.#send(line);
        else await this.#recall(line.recall);
      }
    } finally {
      if (this.group === group) this.replaying = false;
    }
  }

  /** What came out this time is what a replay must give. */
  expectThis(): void {
    for (const line of this.script.lines) {
      const outcome = this.outcomes[line.id];
      if (!isWords(line) || outcome?.state !== "done") continue;
      line.expect = { ...line.expect, speaks: outcome.speaks, reason: outcome.reason };
      outcome.unmet = [];
    }
  }

  async why(line: string): Promise<Why | null> {
    const found = await get<{ decisions: (Why & { message_id: string })[] }>(
      `/admin/chats/group/${this.group}/decisions?limit=200`,
    );
    return found.decisions.find((one) => one.message_id === line) ?? null;
  }

  /** The scripts on the server; those that only this browser had come to it first. */
  async list(): Promise<void> {
    try {
      for (const script of leftBehind()) await post(PLAYS, script);
      localStorage.removeItem(STORE);
    } catch {
      // The next visit tries again.
    }
    try {
      this.saved = (await get<{ plays: KeptPlay[] }>(PLAYS)).plays;
      this.listed = true;
    } catch (error) {
      if (!(error instanceof ApiError && error.isOffline)) toasts.fail(error);
    }
  }

  async save(): Promise<void> {
    try {
      await post(PLAYS, $state.snapshot(this.script));
      toasts.say(t("try.saved"));
    } catch (error) {
      toasts.fail(error);
    }
    await this.list();
  }

  async openKept(kept: KeptPlay): Promise<void> {
    try {
      this.open(read(await get(`${PLAYS}/${kept.id}`)));
    } catch (error) {
      toasts.fail(error);
    }
  }

  async forget(kept: KeptPlay): Promise<void> {
    await remove(`${PLAYS}/${kept.id}`).catch((error: unknown) => toasts.fail(error));
    await this.list();
  }

  #throwAway(): void {
    this.replaying = false;
    if (this.script.lines.length) void remove(`/api/page/tries/${this.group}`).catch(() => undefined);
  }
}

/** Scripts were once kept by the browser alone. */
function leftBehind(): Script[] {
  return JSON.parse(localStorage.getItem(STORE) ?? "[]") as Script[];
}

export const play = new Play();
