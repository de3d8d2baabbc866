// Faults, not style: names that do not exist, values that nobody reads, code that never runs.
import js from "@eslint/js";
import globals from "globals";

export default [
  js.configs.recommended,
  {
    languageOptions: { ecmaVersion: 2022, sourceType: "module", globals: globals.browser },
    linterOptions: { reportUnusedDisableDirectives: "error" },
    rules: { eqeqeq: "error", "no-implicit-globals": "error", "no-var": "error", "prefer-const": "error" },
  },
];
