/** Numbers and times as people read them, in the chosen language. */

import { t } from "./i18n";
import { prefs } from "./prefs.svelte";

const locale = (): string => (prefs.language === "en" ? "en" : "zh-CN");

export function count(value: number): string {
  return new Intl.NumberFormat(locale(), { maximumFractionDigits: 0 }).format(value);
}

/** 0.42 s, 3.1 s, 42 s, 3 min. */
export function seconds(value: number): string {
  if (value < 1) return `${value.toFixed(2)} s`;
  if (value < 10) return `${value.toFixed(1)} s`;
  if (value < 120) return `${Math.round(value)} s`;
  return duration(value);
}

export function duration(value: number): string {
  const minutes = Math.floor(value / 60);
  if (minutes < 1) return t("time.seconds", { n: Math.round(value) });
  if (minutes < 60) return t("time.minutes", { n: minutes });
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return t("time.hours", { n: hours, m: minutes % 60 });
  return t("time.days", { n: Math.floor(hours / 24) });
}

export function percent(share: number): string {
  return `${Math.round(share * 100)}%`;
}

export function megabytes(mb: number): string {
  return mb >= 1024 ? `${(mb / 1024).toFixed(1)} GB` : `${Math.round(mb)} MB`;
}

/** Today by the clock, this year by day, else by date. `at` in seconds since the epoch. */
export function when(at: number, now = Date.now()): string {
  const date = new Date(at * 1000);
  const today = new Date(now);
  if (date.toDateString() === today.toDateString()) return clock(at);
  const sameYear = date.getFullYear() === today.getFullYear();
  const options: Intl.DateTimeFormatOptions = sameYear
    ? { month: "numeric", day: "numeric", hour: "2-digit", minute: "2-digit", hour12: false }
    : { year: "numeric", month: "numeric", day: "numeric" };
  return new Intl.DateTimeFormat(locale(), options).format(date);
}

export function clock(at: number, withSeconds = false): string {
  const options: Intl.DateTimeFormatOptions = { hour: "2-digit", minute: "2-digit", hour12: false };
  if (withSeconds) options.second = "2-digit";
  return new Intl.DateTimeFormat(locale(), options).format(new Date(at * 1000));
}

export function full(at: number): string {
  return new Intl.DateTimeFormat(locale(), { dateStyle: "medium", timeStyle: "medium", hour12: false }).format(
    new Date(at * 1000),
  );
}

export function ago(at: number, now = Date.now()): string {
  const passed = Math.max(0, now / 1000 - at);
  return passed < 5 ? t("time.now") : t("time.ago", { time: duration(passed) });
}

export type Age = "today" | "yesterday" | "week" | "earlier";

/** The heading that something of that time stands under. */
export function age(at: number, now = Date.now()): Age {
  const midnight = new Date(now);
  midnight.setHours(0, 0, 0, 0);
  const days = (midnight.getTime() / 1000 - at) / 86400;
  if (days <= 0) return "today";
  if (days <= 1) return "yesterday";
  return days <= 7 ? "week" : "earlier";
}
