#!/usr/bin/env node
/**
 * `npx convey` in a checkout: builds when nothing has been built yet, then becomes the command line.
 * Published packages do not carry it; there `convey` is dist/cli/main.js itself.
 */
import { existsSync } from "node:fs";
import { nodeProblem } from "./node-version.mjs";

const main = new URL("../../dist/cli/main.js", import.meta.url);
const addon = new URL("../../dist/native/addon/index.js", import.meta.url);
const problem = nodeProblem(process.versions.node, process.platform);
if (problem) {
  console.error("convey: " + problem);
  process.exit(1);
}
if (!existsSync(main) || !existsSync(addon)) {
  console.error(
    "convey: this checkout has not been built yet; building it now (`npm run build` does the same)",
  );
  try {
    await (await import("./steps.mjs")).bringUpToDate();
  } catch (error) {
    console.error("convey: " + (error.forPeople ? error.message : error.stack));
    process.exit(1);
  }
}
await import(main.href);
