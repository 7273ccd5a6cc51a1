import { describe, expect, it } from "vitest";

import { highlighted } from "../src/lib/decorate";
import { blocks } from "../src/lib/markdown";

function html(text: string): string {
  return blocks(text)
    // Code is shown as text: it is no markup at any time.
    .map((block) => (block.kind === "html" ? block.html : ""))
    .join("");
}

/** What runs when it gets into a document as markup. */
const HOSTILE = [
  "<script>alert(1)</script>",
  "<img src=x onerror=alert(1)>",
  "<svg onload=alert(1)></svg>",
  "[a](javascript:alert(1))",
  "[a](JaVaScRiPt:alert(1))",
  "[a](data:text/html,<script>alert(1)</script>)",
  "![a](javascript:alert(1))",
  '![a" onerror="alert(1)](https://x/y.png)',
  "[a](https://x \"t\\\" onmouseover=\\\"alert(1)\")",
  "<a href='javascript:alert(1)'>a</a>",
  "$\\href{javascript:alert(1)}{x}$",
  "$<img src=x onerror=alert(1)>$",
  "```\"><script>alert(1)</script>\nx\n```",
  "- ```html\n  <script>alert(1)</script>\n  ```",
  "| <script>alert(1)</script> |\n|---|\n| <img src=x onerror=alert(1)> |",
  "<style>*{display:none}</style>",
  "<iframe src=//evil></iframe>",
  "<form action=//evil><input name=a></form>",
];

describe("markdown", () => {
  it.each(HOSTILE)("makes nothing that runs or loads of %s", (text) => {
    const document = new DOMParser().parseFromString(html(text), "text/html");
    expect(document.querySelector("script, img, svg, style, iframe, form, input, object, link, meta")).toBeNull();
    for (const element of document.body.querySelectorAll("*")) {
      for (const { name, value } of element.attributes) {
        expect(name).not.toMatch(/^on|^style$|^src/);
        expect(value).not.toMatch(/^\s*(javascript|data|vbscript):/i);
      }
    }
  });

  it("keeps what it should: emphasis, lists, tables, links that leave alone", () => {
    expect(html("**好** 和 `x`")).toBe("<p><strong>好</strong> 和 <code>x</code></p>\n");
    expect(html("| a |\n|---|\n| b |")).toContain("<td>b</td>");
    const link = html("[x](https://example.com)");
    expect(link).toContain('target="_blank"');
    expect(link).toContain('rel="noopener noreferrer nofollow"');
  });

  it("makes a picture a link: nothing is loaded from elsewhere", () => {
    expect(html("![猫](https://example.com/a.png)")).toContain('<a href="https://example.com/a.png"');
  });

  it("marks formulas in each of their four spellings, and leaves money alone", () => {
    expect(html("$x^2$")).toContain('<span class="tex">x^2</span>');
    expect(html("\\(x^2\\)")).toContain('<span class="tex">x^2</span>');
    expect(html("$$\nx < 1\n$$")).toContain('<div class="tex display">');
    expect(html("\\[\nx\n\\]")).toContain('<div class="tex display">');
    expect(html("它要 $5，那个要 $6。")).not.toContain("tex");
  });

  it("hands code out by itself", () => {
    expect(blocks("```Python title=x\nprint(1)\n```")).toEqual([{ kind: "code", language: "python", code: "print(1)\n" }]);
  });

  it("keeps finished blocks as they were while more comes in", () => {
    const before = blocks("一\n\n二\n\n三");
    const after = blocks("一\n\n二\n\n三四");
    expect(after.slice(0, 2)).toEqual(before.slice(0, 2));
    expect(after[2]).not.toEqual(before[2]);
  });
});

describe("code colours", () => {
  it("come as spans and escape the code", async () => {
    const coloured = await highlighted("x = '<img src=x onerror=alert(1)>'", "python");
    expect(coloured).toContain('<span class="hljs-string">');
    expect(coloured).not.toContain("<img");
  });

  it("are none for a language nobody knows", async () => {
    expect(await highlighted("x", "nobody-knows")).toBeNull();
    expect(await highlighted("x", "")).toBeNull();
  });
});
