/** What a test needs of the machine, and the reason to show when it is not there. */
import { accessSync, constants } from "node:fs";
import { delimiter, join } from "node:path";

export interface Needs {
  /** Namespaces and limits need it. */
  root?: boolean;
  tools?: readonly string[];
}

/** Why the machine does not do, or undefined when it does. */
export function lacking(needs: Needs): string | undefined {
  if (needs.root && process.getuid?.() !== 0) return "needs root (network namespaces); run as root";
  const missing = (needs.tools ?? []).filter((tool) => !onPath(tool));
  if (missing.length > 0) return `needs ${missing.join(", ")}; install ${missing.join(", ")}`;
  return undefined;
}

/** Skips the running test, with the reason in the report, unless the machine has what it needs. */
export function needs(context: { skip(note?: string): never }, wanted: Needs): void {
  const reason = lacking(wanted);
  if (reason !== undefined) context.skip(reason);
}

/** Whether a command is found, /usr/sbin included, where Debian keeps nginx and haproxy. */
export function onPath(tool: string): boolean {
  const folders = [...(process.env.PATH ?? "").split(delimiter), "/usr/sbin", "/sbin"];
  return folders.some((folder) => {
    try {
      accessSync(join(folder, tool), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}
