/**
 * Module hooks: `.ts` and `.tsx` files lose their types on the way in; names are resolved by Node as they are. By esbuild:
 * TypeScript's own compiler takes seconds of a processor for each program that a test starts.
 */
import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { transform } from "esbuild";

/** The sample imports the package by its name; in the checkout that is its source. */
const SOURCE = new URL("../../ts/index.ts", import.meta.url).href;

export function resolve(specifier, context, next) {
  return specifier === "convey" ? { url: SOURCE, shortCircuit: true } : next(specifier, context);
}

export async function load(url, context, next) {
  const [, ending] = /\.(tsx?)$/.exec(url) ?? [];
  if (ending === undefined) return next(url, context);
  const file = fileURLToPath(url);
  const { code } = await transform(await readFile(file, "utf8"), {
    // Its ending says whether "<" may begin an element.
    loader: ending,
    sourcefile: file,
    sourcemap: "inline",
    format: "esm",
    target: "es2022",
    jsx: "automatic",
    jsxImportSource: "hono/jsx",
    tsconfigRaw: { compilerOptions: { verbatimModuleSyntax: true } },
  });
  return { format: "module", source: code, shortCircuit: true };
}
