/**
 * The README's "Five minutes", word for word: its files are written, its commands typed, and what it shows is what
 * comes. What the text tells the reader to do in between is done here, at the block that shows the outcome.
 */
import { mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { stripVTControlCharacters } from "node:util";
import { expect, test } from "vitest";
import { type Running, start, until } from "../../support/processes.ts";
import { needs } from "../../support/requirements.ts";
import { onTerminal } from "../../support/terminal.ts";

const ROOT = join(import.meta.dirname, "../../..");

interface Block {
  /** toml, console, or "" for what the running program logs. */
  kind: string;
  text: string;
}

/** The fenced blocks of a section, in order. */
function blocksOf(section: string): Block[] {
  const readme = readFileSync(join(ROOT, "README.md"), "utf8");
  const [, text = ""] = new RegExp(`^## ${section}$(.*?)^## `, "ms").exec(readme) ?? [];
  return [...text.matchAll(/^```(\w*)\n(.*?)^```$/gms)].map(([, kind = "", body = ""]) => ({
    kind,
    text: body,
  }));
}

/** The commands of a console block, each with the lines that follow it. */
function commandsOf(block: Block): { command: string; shows: string }[] {
  return block.text
    .split(/^\$ /m)
    .slice(1)
    .map((part) => {
      const [command = "", ...lines] = part.split("\n");
      return { command, shows: lines.join("\n") };
    });
}

/** Without what differs each time: times, versions, the wheel that npx turns, the echo of Ctrl-C. */
function constant(text: string): string {
  return stripVTControlCharacters(text)
    .replace(/[\u2800-\u28ff]|\^C/g, "")
    .replace(/\[\d\d:\d\d:\d\d\.\d{3}\]/g, "[TIME]")
    .replace(/\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z/g, "TIME")
    .replace(/\bconvey \d+\.\d+\.\d+/g, "convey VERSION");
}

/** A shell in a network of its own, in a folder that looks like the checkout to npx. */
class Shell implements AsyncDisposable {
  readonly folder = mkdtempSync(join(tmpdir(), "convey-tour-"));
  readonly running: Running;
  #asked = 0;

  constructor() {
    for (const name of ["package.json", "node_modules", "dist", "ts"]) {
      symlinkSync(join(ROOT, name), join(this.folder, name));
    }
    this.running = start(["unshare", "-n", "bash", "-c", "ip link set lo up && exec bash"], {
      cwd: this.folder,
      stdin: true,
    });
  }

  /** Runs a command and returns what it printed. */
  async run(command: string): Promise<string> {
    const mark = `--- end of ${++this.#asked}`;
    const before = this.running.stdout.length;
    this.running.child.stdin?.write(`${command}\necho '${mark}'\n`);
    await until(
      () => this.running.stdout.includes(`${mark}\n`),
      command,
      60_000,
      () => this.running.output(),
    );
    return this.running.stdout.slice(before, this.running.stdout.indexOf(mark));
  }

  /** Starts a command on a terminal, in the same network. */
  async onTerminal(command: string): Promise<Running> {
    await this.run(":");
    const prefix = ["nsenter", "-n", "-t", String(this.running.pid)];
    const env = { ...process.env, NO_COLOR: "1" };
    return onTerminal(["bash", "-c", command], { cwd: this.folder, env }, prefix);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.running[Symbol.asyncDispose]();
    rmSync(this.folder, { recursive: true, force: true });
  }
}

const BAD = `[frontends.web]
listen_adr = "127.0.0.1:3000"
backend = "aps"

[backends.app]

[backends.app.servers.s1]
addr = "127.0.0.1"
weight = 70000
`;

test("the README's five minutes come out as it says", { timeout: 120_000 }, async (context) => {
  needs(context, { root: true, tools: ["unshare", "nsenter", "ip", "python3", "curl", "jq", "npx"] });
  const blocks = blocksOf("Five minutes");
  expect(blocks.map(({ kind }) => kind)).toEqual([
    "toml",
    "console",
    "console",
    "",
    "",
    "console",
    "",
    "console",
  ]);
  const [config, begin, loop, down, reloads, stats, end, validate] = blocks as [
    Block,
    Block,
    Block,
    Block,
    Block,
    Block,
    Block,
    Block,
  ];
  await using shell = new Shell();
  const file = join(shell.folder, "web.toml");
  writeFileSync(file, config.text, { mode: 0o644 });

  const [folders, servers, run] = commandsOf(begin) as [
    { command: string },
    { command: string },
    { command: string; shows: string },
  ];
  await shell.run(folders.command);
  await shell.run(servers.command);
  for (const port of [8101, 8102]) {
    await shell.run(`until curl -s 127.0.0.1:${port} > /dev/null; do sleep 0.1; done`);
  }
  await using balancer = await shell.onTerminal(run.command);
  let told = "";
  /** What the program logs next is what the README shows. */
  const shows = async (text: string) => {
    told += constant(text);
    const logged = () =>
      constant(balancer.stdout)
        .split("\n")
        .filter((line) => line.startsWith("[TIME]"))
        .map((line) => `${line}\n`)
        .join("");
    await until(
      () => logged().length >= told.length,
      text,
      20_000,
      () => balancer.output(),
    );
    expect(logged()).toBe(told);
  };
  await shows(run.shows);

  const [curls] = commandsOf(loop) as [{ command: string; shows: string }];
  expect(await shell.run(curls.command)).toBe(curls.shows);

  // "Stop the second server."
  await shell.run("kill %2");
  await shows(down.text);

  // "Edit the file while it runs. A mistake changes nothing; a correction is in service".
  const [mistake = "", correction = ""] = reloads.text.split("\n");
  writeFileSync(file, config.text.replace("weight", "weigth"));
  await shows(`${mistake}\n`);
  writeFileSync(file, config.text.replace("weight = 2", "weight = 3"));
  await shows(`${correction}\n`);

  const [query] = commandsOf(stats) as [{ command: string; shows: string }];
  expect(constant(await shell.run(query.command))).toBe(constant(query.shows));

  // "Ctrl-C drains".
  balancer.child.stdin?.write("\u0003");
  await shows(end.text);
  await balancer.waitFor(/^ended with/m);

  writeFileSync(join(shell.folder, "bad.toml"), BAD, { mode: 0o644 });
  const [check] = commandsOf(validate) as [{ command: string; shows: string }];
  expect(await shell.run(`${check.command} 2>&1`)).toBe(check.shows);
});
