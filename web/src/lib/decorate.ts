/** What comes to text only where it is needed: code colours (highlight.js) and formulas (KaTeX), each loaded once. */

import type { HLJSApi } from "highlight.js";

import { clean } from "./markdown";

let highlighter: Promise<HLJSApi> | null = null;
let katex: Promise<typeof import("katex")> | null = null;

/** The code as clean markup with its language's colours; null for a language that is not known. */
export async function highlighted(code: string, language: string): Promise<string | null> {
  if (!language || language === "text" || language === "plaintext") return null;
  highlighter ??= import("highlight.js/lib/common").then((module) => module.default);
  const hljs = await highlighter;
  if (!hljs.getLanguage(language)) return null;
  return clean(hljs.highlight(code, { language, ignoreIllegals: true }).value);
}

/** Sets the formulas below `root`. KaTeX writes into the document by itself: a strict content policy refuses style in markup. */
export async function formulas(root: HTMLElement): Promise<void> {
  const found = [...root.querySelectorAll<HTMLElement>(".tex:not(.set)")];
  if (!found.length) return;
  katex ??= Promise.all([import("katex"), import("katex/dist/katex.min.css")]).then(([module]) => module);
  const { default: renderer } = await katex;
  for (const element of found) {
    if (element.classList.contains("set")) continue;
    const source = element.textContent ?? "";
    element.classList.add("set");
    element.setAttribute("title", source);
    renderer.render(source, element, {
      displayMode: element.classList.contains("display"),
      throwOnError: false,
      trust: false,
      maxExpand: 200,
      maxSize: 50,
      output: "htmlAndMathml",
    });
  }
}
