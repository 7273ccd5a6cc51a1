import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";

import { describe, expect, it } from "vitest";

import { age, duration, megabytes, when } from "../src/lib/format";
import { filled } from "../src/lib/i18n";
import { languageOf } from "../src/lib/prefs.svelte";
import { en } from "../src/locales/en";
import { zh } from "../src/locales/zh";

const names = (text: string): string[] => (text.match(/\{\w+\}/g) ?? []).sort();

describe("the page's words", () => {
  it("take the same values in both languages", () => {
    for (const [key, text] of Object.entries(zh)) {
      expect(names(en[key as keyof typeof zh]), key).toEqual(names(text));
      expect(text, key).not.toBe("");
      expect(en[key as keyof typeof zh], key).not.toBe("");
    }
  });

  it("are all used", () => {
    const source = (folder: string): string =>
      readdirSync(folder, { recursive: true, encoding: "utf8" })
        .filter((name) => /\.(svelte|ts)$/.test(name) && !name.includes("locales"))
        .map((name) => readFileSync(join(folder, name), "utf8"))
        .join("\n");
    const used = source("src");
    for (const key of Object.keys(zh)) {
      // Some are made of a word that the server says.
      const prefix = key.slice(0, key.indexOf(".") + 1);
      const made = used.includes(`\`${prefix}\${`) || used.includes(`told("${prefix.slice(0, -1)}"`);
      expect(made || used.includes(`"${key}"`), key).toBe(true);
    }
  });

  it("are filled", () => {
    expect(filled("{a} 和 {b}", { a: 1, b: "<b>" })).toBe("1 和 <b>");
    expect(filled("{a}", { b: 1 })).toBe("{a}");
  });

  it("are Chinese unless the browser is English", () => {
    expect(languageOf("en-GB", null)).toBe("en");
    expect(languageOf("de", null)).toBe("zh");
    expect(languageOf("en-GB", "zh")).toBe("zh");
  });
});

describe("figures", () => {
  it("are read easily", () => {
    expect(duration(42)).toMatch(/^42/);
    expect(duration(3 * 3600 + 120)).toMatch(/3.*2/);
    expect(megabytes(2048)).toBe("2.0 GB");
  });

  it("tell days apart at midnight", () => {
    const now = new Date(2026, 10, 29, 0, 30).getTime();
    expect(age(now / 1000 - 60, now)).toBe("today");
    expect(age(now / 1000 - 3600, now)).toBe("yesterday");
    expect(age(now / 1000 - 30 * 3600, now)).toBe("week");
    expect(age(now / 1000 - 30 * 86400, now)).toBe("earlier");
    expect(when(now / 1000 - 3600, now)).toContain("28");
  });
});
