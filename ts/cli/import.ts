/** `convey import`: a haproxy.cfg or nginx.conf as a configuration, and what of it was left. */
import { isUtf8 } from "node:buffer";
import { type Command, Option } from "commander";
import { EXIT } from "./exit-codes.ts";

interface ImportOptions {
  from?: "haproxy" | "nginx";
  json?: true;
}

export function importCommand(program: Command): void {
  program
    .command("import")
    .description("turn a haproxy.cfg or nginx.conf into a configuration, and tell what of it was left")
    .argument("<file>", 'file of HAProxy or nginx; "-" is standard input')
    .addOption(
      new Option("--from <program>", "whose file it is; told by what stands in it unless given").choices([
        "haproxy",
        "nginx",
      ]),
    )
    .option("--json", 'print {"toml", "problems"} as JSON, each problem with "line", "text" and "message"')
    .addHelpText(
      "after",
      "\nPrints TOML on standard output, and on standard error each line that was not taken over, or not as it is.\n" +
        "Exit code 0 when everything was, 1 otherwise. samples/migrating.md has the keys side by side.",
    )
    .action(async (file: string, options: ImportOptions) => {
      const { importText, programOf } = await import("../import/index.ts");
      const text = await readText(file);
      const from = options.from ?? programOf(text);
      if (from === undefined) {
        throw failure(`${file}: looks like a file of neither HAProxy nor nginx; say which with --from`);
      }
      const { toml, problems } = importText(text, from);
      process.exitCode = problems.length === 0 ? EXIT.ok : EXIT.failure;
      if (options.json) {
        process.stdout.write(`${JSON.stringify({ toml, problems }, undefined, 2)}\n`);
        return;
      }
      for (const { line, text: shown, message } of problems) {
        process.stderr.write(`line ${line}: \`${shown}\`: ${message}\n`);
      }
      process.stdout.write(toml);
    });
}

async function readText(file: string): Promise<string> {
  const { MAX_IMPORT_BYTES } = await import("../import/index.ts");
  const { readSmallFile } = await import("../config/read.ts");
  const { inert } = await import("../config/problem.ts");
  const name = file === "-" ? "standard input" : inert(file);
  let bytes: Buffer;
  try {
    bytes =
      file === "-"
        ? await readInput(MAX_IMPORT_BYTES)
        : (await readSmallFile(file, MAX_IMPORT_BYTES, { anything: true })).bytes;
  } catch (cause) {
    throw failure(
      `${name}: cannot be read: ${inert(cause instanceof Error ? cause.message : String(cause))}`,
    );
  }
  if (bytes.length > MAX_IMPORT_BYTES) {
    throw failure(`${name}: is larger than ${MAX_IMPORT_BYTES / 1024 / 1024} MiB, the most that is read`);
  }
  if (!isUtf8(bytes)) throw failure(`${name}: is not UTF-8`);
  const text = bytes.toString("utf8");
  return text.startsWith("\ufeff") ? text.slice(1) : text;
}

/** Standard input up to `most` bytes and a piece more. */
async function readInput(most: number): Promise<Buffer> {
  const pieces: Buffer[] = [];
  let total = 0;
  for await (const piece of process.stdin as AsyncIterable<Buffer>) {
    pieces.push(piece);
    total += piece.length;
    if (total > most) break;
  }
  return Buffer.concat(pieces);
}

const failure = (message: string): Error => Object.assign(new Error(message), { code: "IMPORT" });
