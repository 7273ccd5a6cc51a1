import svelte from "eslint-plugin-svelte";
import globals from "globals";
import ts from "typescript-eslint";

import svelteConfig from "./svelte.config.js";

export default ts.config(
  ...ts.configs.strict,
  ...svelte.configs.recommended,
  { languageOptions: { globals: { ...globals.browser, ...globals.node } } },
  {
    files: ["**/*.svelte", "**/*.svelte.ts"],
    languageOptions: { parserOptions: { parser: ts.parser, extraFileExtensions: [".svelte"], svelteConfig } },
  },
  {
    rules: {
      // TypeScript knows names.
      "no-undef": "off",
      "no-eval": "error",
      "no-implied-eval": "error",
      eqeqeq: "error",
      // Own router: there is no base path to resolve.
      "svelte/no-navigation-without-resolve": "off",
    },
  },
  { ignores: ["node_modules/", "dist/"] },
);
