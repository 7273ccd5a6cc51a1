/** A play as a file: invented members and what they do, which `qqvl try` replays as a test. Knows the QQ door's JSON. */

export interface Member {
  id: string;
  name: string;
  card: string;
  role: "owner" | "admin" | "member";
  is_bot: boolean;
}

export interface Expectation {
  speaks?: boolean;
  reason?: string;
  contains?: string[];
  not_contains?: string[];
  matches?: string;
}

export interface Words {
  id: string;
  /** Seconds since the first line by the group's clock. */
  at_s: number;
  from: string;
  text: string;
  at: string[];
  /** A line's id, or that of a reply: `l1/reply`. */
  quote: string | null;
  images: string[];
  expect?: Expectation;
}

export interface Recall {
  id: string;
  at_s: number;
  recall: string;
}

export type Line = Words | Recall;

export interface Script {
  qqvl_try: 1;
  name: string;
  group: { name: string };
  settings: Record<string, unknown>;
  bot: { id: string; name: string };
  members: Member[];
  lines: Line[];
}

export interface Said {
  id: string;
  text: string;
}

export function isWords(line: Line): line is Words {
  return "from" in line;
}

const ID = /^[\w/.:-]{1,64}$/;

/** Throws Error, with what is wrong: not a script. What we do not know of is left out. */
export function parsed(text: string): Script {
  return read(JSON.parse(text));
}

export function read(value: unknown): Script {
  const told = value as Partial<Script> | null;
  if (told?.qqvl_try !== 1) throw new Error("qqvl_try: 1");
  const members = (told.members ?? []).map(({ id, name, card, role, is_bot }) => ({
    id: String(id),
    name: String(name ?? ""),
    card: String(card ?? ""),
    role: role === "owner" || role === "admin" ? role : ("member" as const),
    is_bot: is_bot === true,
  }));
  const ids = new Set(members.map((member) => member.id));
  const lines = (told.lines ?? []).map((line, at): Line => {
    const id = String(line.id ?? `l${at + 1}`);
    const at_s = Number(line.at_s ?? 0);
    if (!ID.test(id) || !Number.isFinite(at_s)) throw new Error(`lines[${at}]`);
    if (!isWords(line)) return { id, at_s, recall: String(line.recall) };
    const from = String(line.from);
    if (!ids.has(from)) throw new Error(`lines[${at}].from`);
    const images = (line.images ?? []).filter((image) => /^data:image\/[a-z+.-]+;base64,/.test(image));
    const words: Words = {
      id,
      at_s,
      from,
      text: String(line.text ?? ""),
      at: (line.at ?? []).map(String),
      quote: line.quote ? String(line.quote) : null,
      images,
    };
    if (line.expect) words.expect = line.expect;
    return words;
  });
  if (!members.length) throw new Error("members");
  return {
    qqvl_try: 1,
    name: String(told.name ?? ""),
    group: { name: String(told.group?.name ?? "") },
    settings: told.settings ?? {},
    bot: { id: String(told.bot?.id ?? "10000"), name: String(told.bot?.name ?? "小Q") },
    members,
    lines,
  };
}

/** Who is mentioned in the words: `@name` of a member or of the bot, the longest name first. */
export function mentioned(script: Pick<Script, "bot" | "members">, text: string): string[] {
  return segments(script, text)
    .filter((piece) => piece.type === "at")
    .map((piece) => piece.user_id ?? "")
    .filter((id, at, all) => all.indexOf(id) === at);
}

export interface Piece {
  type: "text" | "at" | "image";
  text?: string;
  user_id?: string;
  index?: number;
}

export function segments(script: Pick<Script, "bot" | "members">, text: string): Piece[] {
  const named = script.members.flatMap(({ id, name, card }) => [
    { id, name },
    { id, name: card },
  ]);
  const names = [{ id: script.bot.id, name: script.bot.name }, ...named]
    .filter(({ name }) => name !== "")
    .sort((a, b) => b.name.length - a.name.length);
  const pieces: Piece[] = [];
  let plain = "";
  for (let at = 0; at < text.length; ) {
    const found = text[at] === "@" ? names.find(({ name }) => text.startsWith(name, at + 1)) : undefined;
    if (!found) {
      plain += text[at];
      at += 1;
      continue;
    }
    if (plain) pieces.push({ type: "text", text: plain });
    plain = "";
    pieces.push({ type: "at", user_id: found.id, text: `@${found.name}` });
    at += found.name.length + 1;
  }
  if (plain) pieces.push({ type: "text", text: plain });
  return pieces;
}

/** What `POST /api/chat/group` is told of a line. `quoted` is what the line quotes, if that is still there. */
export function bodyOf(
  script: Script,
  line: Words,
  group: { id: string; began: number },
  quoted: { id: string; text: string; from: string } | null,
): Record<string, unknown> {
  const member = script.members.find((one) => one.id === line.from);
  const pieces = segments(script, line.text);
  line.images.forEach((_, index) => pieces.push({ type: "image", index }));
  const name = (id: string): string =>
    [script.bot, ...script.members].find((one) => one.id === id)?.name ?? id;
  return {
    type: "group",
    group_id: group.id,
    group_name: script.group.name,
    user_id: line.from,
    user_nickname: member?.name ?? line.from,
    user_card: member?.card ?? "",
    sender_role: member?.role ?? "member",
    sender_is_bot: member?.is_bot ?? false,
    message_id: line.id,
    self_id: script.bot.id,
    self_nickname: script.bot.name,
    at_me: line.at.includes(script.bot.id) || quoted?.from === script.bot.id,
    content: line.text,
    segments: pieces,
    images: line.images.map((image) => ({
      data: image.slice(image.indexOf(",") + 1),
      format: /^data:image\/([a-z]+)/.exec(image)?.[1] ?? "png",
    })),
    timestamp: group.began + line.at_s,
    ...(quoted && {
      reply_to: { id: quoted.id, text: quoted.text, user_id: quoted.from, user_nickname: name(quoted.from) },
    }),
  };
}

/** The id that the `index`th message of a line's answer goes by, for quoting and recalling it. */
export function replyId(line: string, index: number): string {
  return index === 0 ? `${line}/reply` : `${line}/reply${index + 1}`;
}

/** What of `expect` did not come true; empty: all of it did. */
export function unmet(expect: Expectation, got: { speaks: boolean; reason: string; text: string }): (keyof Expectation)[] {
  const wrong: (keyof Expectation)[] = [];
  if (expect.speaks !== undefined && expect.speaks !== got.speaks) wrong.push("speaks");
  if (expect.reason !== undefined && expect.reason !== got.reason) wrong.push("reason");
  if (expect.contains?.some((words) => !got.text.includes(words))) wrong.push("contains");
  if (expect.not_contains?.some((words) => got.text.includes(words))) wrong.push("not_contains");
  if (expect.matches !== undefined && !safely(expect.matches, got.text)) wrong.push("matches");
  return wrong;
}

function safely(pattern: string, text: string): boolean {
  try {
    return new RegExp(pattern).test(text);
  } catch {
    return false;
  }
}
