/** Module hooks: `.ts` and `.tsx` files lose their types on the way in; names are resolved by Node as they are. */
import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import ts from "typescript";

/** The sample imports the package by its name; in the checkout that is its source. */
const SOURCE = new URL("../../ts/index.ts", import.meta.url).href;

export function resolve(specifier, context, next) {
  return specifier === "convey" ? { url: SOURCE, shortCircuit: true } : next(specifier, context);
}

export async function load(url, context, next) {
  if (!/\.tsx?$/.test(url)) return next(url, context);
  const text = await readFile(fileURLToPath(url), "utf8");
  const { outputText } = ts.transpileModule(text, {
    // Its ending says whether "<" may begin an element.
    fileName: fileURLToPath(url),
    compilerOptions: {
      target: ts.ScriptTarget.ES2022,
      module: ts.ModuleKind.ESNext,
      verbatimModuleSyntax: true,
      jsx: ts.JsxEmit.ReactJSX,
      jsxImportSource: "hono/jsx",
      inlineSourceMap: true,
    },
  });
  return { format: "module", source: outputText, shortCircuit: true };
}
