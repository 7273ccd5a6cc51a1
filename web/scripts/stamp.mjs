// Writes the digest of the sources beside what was built of them, or with --check compares: users get the built files
// from the repository and need no Node, so the two must not drift apart. tests/web/test_built.py asks the same.
import { createHash } from "node:crypto";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = fileURLToPath(new URL("..", import.meta.url));
const STAMP = join(ROOT, "../server/qqvl_server/api/web/static/sources.sha256");
const FILES = ["index.html", "package-lock.json", "package.json", "svelte.config.js", "tsconfig.json", "vite.config.ts"];

function below(folder) {
  return readdirSync(join(ROOT, folder), { withFileTypes: true }).flatMap((entry) =>
    entry.isDirectory() ? below(`${folder}/${entry.name}`) : [`${folder}/${entry.name}`],
  );
}

const names = [...FILES, ...below("public"), ...below("src")].sort();
const whole = createHash("sha256");
for (const name of names) {
  const digest = createHash("sha256").update(readFileSync(join(ROOT, name))).digest("hex");
  whole.update(`${digest}  ${name}\n`);
}
const now = `${whole.digest("hex")}\n`;
if (process.argv.includes("--check")) {
  let built = "";
  try {
    built = readFileSync(STAMP, "utf8");
  } catch {
    // Never built.
  }
  if (built !== now) {
    console.error("错误：server/qqvl_server/api/web/static 不是由现在的 web/ 构建的；请在 web/ 里运行 npm run build，把结果一起提交");
    process.exit(1);
  }
} else {
  writeFileSync(STAMP, now);
}
