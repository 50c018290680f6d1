/** Peers that the reader adds: `CONVEY_BENCH_PEERS="name=command,name=command"`. */

export interface Added {
  name: string;
  /** A line for the shell, with {placeholders}. */
  command: string;
}

/** Takes the variable's text apart. Throws when an entry is not name=command, or a name comes twice. */
export function parseAdded(text: string): Added[] {
  const added = text
    .split(",")
    .filter((entry) => entry.trim() !== "")
    .map((entry) => {
      const at = entry.indexOf("=");
      const name = entry.slice(0, Math.max(at, 0)).trim();
      const command = entry.slice(at + 1).trim();
      if (name === "" || command === "")
        throw new Error(`CONVEY_BENCH_PEERS: "${entry}" is not name=command`);
      return { name, command };
    });
  const twice = added.find(({ name }, at) => added.findIndex((other) => other.name === name) !== at);
  if (twice !== undefined) throw new Error(`CONVEY_BENCH_PEERS names "${twice.name}" twice`);
  return added;
}

/** The command with its placeholders filled in. Throws when one is not known. */
export function fill({ name, command }: Added, values: Readonly<Record<string, string>>): string[] {
  const line = command.replaceAll(/\{(\w+)\}/g, (placeholder, key: string) => {
    const value = values[key];
    if (value === undefined) {
      const known = Object.keys(values).map((k) => `{${k}}`);
      throw new Error(`CONVEY_BENCH_PEERS: ${placeholder} of "${name}" is not one of ${known.join(", ")}`);
    }
    return value;
  });
  // exec: the process measured is the command itself, not a shell around it.
  return ["sh", "-c", `exec ${line}`];
}
