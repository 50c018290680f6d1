/** Example programs that the bench runs, built for measuring. */
import { succeed } from "../../support/processes.ts";

const built = new Map<string, Promise<string>>();

/** Path of an example of a crate; builds it when it is stale. */
export function benchExample(crate: string, name: string): Promise<string> {
  const path = built.get(name) ?? build(crate, name);
  built.set(name, path);
  return path;
}

async function build(crate: string, name: string): Promise<string> {
  const what = ["--release", "-p", crate, "--example", name, "--message-format=json"];
  const out = await succeed(["cargo", "build", ...what], { timeoutMs: 600_000 });
  const executable = new RegExp(`"executable":"([^"]+/${name})"`).exec(out)?.[1];
  if (executable === undefined) throw new Error(`cargo built ${name} but named no executable`);
  return executable;
}

/** Lines that an example of a crate prints, run on one core. */
export async function exampleLines(
  crate: string,
  name: string,
  args: readonly string[],
  core: number,
): Promise<string[]> {
  console.error(name);
  const command = ["taskset", "-c", String(core), await benchExample(crate, name), ...args];
  return (await succeed(command, { timeoutMs: 900_000 })).trimEnd().split("\n");
}
