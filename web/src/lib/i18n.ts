/** The page's words in the chosen language. Chinese is the source: English must have the same keys. */

import { en } from "../locales/en";
import { zh } from "../locales/zh";
import { prefs } from "./prefs.svelte";

export type Key = keyof typeof zh;
export type Values = Record<string, string | number>;

const words: Record<"zh" | "en", Record<Key, string>> = { zh, en };

/** `{name}` in a text is replaced by that value. */
export function t(key: Key, values?: Values): string {
  return filled(words[prefs.language][key], values);
}

export function filled(text: string, values?: Values): string {
  return values ? text.replace(/\{(\w+)\}/g, (all, name: string) => String(values[name] ?? all)) : text;
}

/** The text of a key made of a server's word, or that word where we have none for it. */
export function told(prefix: string, word: string): string {
  const key = `${prefix}.${word}`;
  return key in zh ? t(key as Key) : word;
}
