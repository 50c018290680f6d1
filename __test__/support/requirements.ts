/**
 * What a test needs of the machine, and the reason to show when it is not there. In a test run the PATH has nothing
 * but what was declared here, so that a forgotten declaration fails everywhere and not on somebody else's machine.
 * The names stand in ts/bootstrap/needs.mjs.
 */
import { findCommand, onlyDeclared, remedy, unknownNames, unmet } from "../../ts/bootstrap/needs.mjs";

export interface Needs {
  /** Namespaces and limits need it. */
  root?: boolean;
  tools?: readonly string[];
}

/** Why the machine does not do, or undefined when it does. Beside a suite it declares for all tests of the file. */
export function lacking(wanted: Needs): string | undefined {
  const { missing, names } = look(wanted);
  if (missing === undefined) declared?.ofFile(names);
  return missing;
}

/** Skips the running test, with the reason in the report, unless the machine has what it needs. */
export function needs(context: { skip(note?: string): never }, wanted: Needs): void {
  const { missing, names } = look(wanted);
  if (missing !== undefined) context.skip(missing);
  declared?.ofTest(names);
}

/** Whether a command is found, /usr/sbin included, where Debian keeps nginx and haproxy. */
export function onPath(tool: string): boolean {
  return findCommand(tool, environment()) !== undefined;
}

function look(wanted: Needs): { names: string[]; missing: string | undefined } {
  const names = [...(wanted.root ? ["root"] : []), ...(wanted.tools ?? [])];
  const unknown = unknownNames(names);
  if (unknown.length > 0) throw new Error(`add ${unknown.join(", ")} to ts/bootstrap/needs.mjs`);
  const missing = unmet(names, environment());
  if (missing.length === 0) return { names, missing: undefined };
  return { names, missing: `needs ${missing.join(", ")} (${remedy(missing)})` };
}

/** The environment as it was before the PATH was narrowed. */
function environment(): NodeJS.ProcessEnv {
  return { ...process.env, PATH: declared?.whole ?? process.env.PATH };
}

/** The PATH of a test file's process, grown by what is declared. */
class Declared {
  readonly whole = process.env.PATH;
  #file: readonly string[] = [];
  readonly #paths = new Map<string, ReturnType<typeof onlyDeclared>>();

  ofFile(names: readonly string[]): void {
    this.#file = [...this.#file, ...names];
    this.ofTest([]);
  }

  /** Until the next test begins. */
  ofTest(names: readonly string[]): void {
    const all = [...new Set([...this.#file, ...names])].sort();
    const key = all.join();
    const known = this.#paths.get(key) ?? onlyDeclared(all, { ...process.env, PATH: this.whole });
    this.#paths.set(key, known);
    process.env.PATH = known.path;
  }

  end(): void {
    for (const path of this.#paths.values()) path.remove();
    process.env.PATH = this.whole;
  }
}

let declared: Declared | undefined;

/** Narrows the PATH; what is called at the beginning of each test, and at the end of the file. */
export function narrowPath(): { beforeTest: () => void; end: () => void } {
  const path = new Declared();
  declared = path;
  path.ofTest([]);
  return { beforeTest: () => path.ofTest([]), end: () => path.end() };
}
