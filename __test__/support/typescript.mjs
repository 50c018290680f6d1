/**
 * Lets plain Node run this project's TypeScript, for tests and benches that need a process of their own:
 * `node --import ./__test__/support/typescript.mjs file.ts`.
 */
import { register } from "node:module";

register("./typescript-hooks.mjs", import.meta.url);
