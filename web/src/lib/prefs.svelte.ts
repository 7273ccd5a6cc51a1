/** What this browser keeps by itself: theme and language. `public/assets/theme-1.js` reads them before the first paint. */

export type Theme = "system" | "light" | "dark";
export type Language = "zh" | "en";

function stored(key: string): string | null {
  try {
    return localStorage.getItem(key);
  } catch {
    return null; // Storage may be forbidden.
  }
}

function store(key: string, value: string | null): void {
  try {
    if (value === null) localStorage.removeItem(key);
    else localStorage.setItem(key, value);
  } catch {
    // Then it lasts as long as the page.
  }
}

/** Chinese, unless the browser is set to English. */
export function languageOf(browser: string, chosen: string | null): Language {
  if (chosen === "zh" || chosen === "en") return chosen;
  return browser.toLowerCase().startsWith("en") ? "en" : "zh";
}

class Prefs {
  theme = $state<Theme>("system");
  language = $state<Language>("zh");

  constructor() {
    const theme = stored("qqvl.theme");
    this.theme = theme === "dark" || theme === "light" ? theme : "system";
    this.language = languageOf(navigator.language || "zh", stored("qqvl.lang"));
  }

  setTheme(theme: Theme): void {
    this.theme = theme;
    store("qqvl.theme", theme === "system" ? null : theme);
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
  }

  setLanguage(language: Language): void {
    this.language = language;
    store("qqvl.lang", language);
    document.documentElement.lang = language === "en" ? "en" : "zh-CN";
  }
}

export const prefs = new Prefs();
