/** Markdown → clean HTML, block by block, so that a growing reply draws only its last block anew.
 *
 * What a model wrote is not trusted: raw HTML is text (`html: false`), pictures become links (the page loads nothing
 * from elsewhere), and DOMPurify passes only what is listed here. Formulas stay text in `.tex` until KaTeX is there.
 */

import { tex } from "@mdit/plugin-tex";
import DOMPurify from "dompurify";
import MarkdownIt from "markdown-it";
import type { Token } from "markdown-it/index.js";

export type Block = { kind: "html"; html: string } | { kind: "code"; language: string; code: string };

const markdown = new MarkdownIt({ html: false, linkify: true, breaks: true, typographer: false });
const { escapeHtml } = markdown.utils;
markdown.use(tex, {
  delimiters: "all",
  mathFence: true,
  render: (content, display) =>
    display ? `<div class="tex display">${escapeHtml(content)}</div>` : `<span class="tex">${escapeHtml(content)}</span>`,
});
markdown.renderer.rules.image = (tokens, index) => {
  const token = tokens[index];
  const address = escapeHtml(String(token?.attrGet("src") ?? ""));
  return `<a href="${address}">🖼 ${escapeHtml(token?.content || address)}</a>`;
};

const ALLOWED = {
  ALLOWED_TAGS: (
    "a b blockquote br code dd del div dl dt em h1 h2 h3 h4 h5 h6 hr i li ol p pre s span strong sub sup " +
    "table tbody td th thead tr u ul"
  ).split(" "),
  ALLOWED_ATTR: ["href", "class", "start", "align", "target", "rel"],
  ALLOWED_URI_REGEXP: /^(?:https?:|mailto:|#)/i,
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
};

DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  if (node.tagName !== "A") return;
  node.setAttribute("target", "_blank");
  node.setAttribute("rel", "noopener noreferrer nofollow");
});

export function clean(html: string): string {
  return DOMPurify.sanitize(html, ALLOWED);
}

const known = new Map<string, string>();

/** Sanitising is the dear part, and all blocks but the last are as they were. */
function cleanOnce(html: string): string {
  let found = known.get(html);
  if (found === undefined) {
    found = clean(html);
    if (known.size >= 500) known.clear();
    known.set(html, found);
  }
  return found;
}

export function blocks(text: string): Block[] {
  const env = {};
  return topLevel(markdown.parse(text, env)).map((group) => {
    const first = group[0];
    if (first && group.length === 1 && (first.type === "fence" || first.type === "code_block")) {
      return { kind: "code", language: (first.info.trim().split(/\s+/)[0] ?? "").toLowerCase(), code: first.content };
    }
    return { kind: "html", html: cleanOnce(markdown.renderer.render(group, markdown.options, env)) };
  });
}

function topLevel(tokens: Token[]): Token[][] {
  const groups: Token[][] = [];
  let group: Token[] = [];
  let depth = 0;
  for (const token of tokens) {
    group.push(token);
    depth += token.nesting;
    if (depth === 0) {
      groups.push(group);
      group = [];
    }
  }
  if (group.length) groups.push(group);
  return groups;
}
