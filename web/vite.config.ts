import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig } from "vitest/config";

const server = process.env.QQVL_SERVER ?? "http://127.0.0.1:9999";

/** KaTeX offers each font three times; every browser that runs this page reads woff2. */
const onlyWoff2 = {
  name: "only-woff2",
  enforce: "pre" as const,
  transform(code: string, id: string) {
    if (!id.includes("katex") || !id.endsWith(".css")) return null;
    return code.replace(/,\s*url\([^)]*\.(?:woff|ttf)\)\s*format\("(?:woff|truetype)"\)/g, "");
  },
};

export default defineConfig({
  base: "/",
  plugins: [onlyWoff2, svelte()],
  build: {
    outDir: "../server/qqvl_server/api/web/static",
    emptyOutDir: true,
    target: "es2022",
    // A strict content policy has no data: for fonts or scripts.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
  },
  server: {
    proxy: Object.fromEntries(["/v1", "/api", "/admin", "/health", "/metrics"].map((path) => [path, server])),
  },
  test: { environment: "jsdom", include: ["tests/**/*.test.ts"] },
  resolve: process.env.VITEST ? { conditions: ["browser"] } : {},
});
