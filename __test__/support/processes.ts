/** Child processes of tests and benches: started with a command line, watched, and always ended. */
import { type ChildProcess, spawn } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

/** How a process ended. */
export interface Exit {
  code: number | null;
  signal: NodeJS.Signals | null;
}

/** What a finished command left. */
export interface Finished extends Exit {
  stdout: string;
  stderr: string;
}

export interface StartOptions {
  cwd?: string;
  env?: NodeJS.ProcessEnv;
  /** Keep stdin open for `child.stdin`; otherwise it is /dev/null. */
  stdin?: boolean;
}

/** A running child process. `await using` ends it. */
export class Running implements AsyncDisposable {
  readonly exited: Promise<Exit>;
  stdout = "";
  stderr = "";
  #ended = false;

  readonly child: ChildProcess;
  readonly command: readonly string[];

  constructor(child: ChildProcess, command: readonly string[]) {
    this.child = child;
    this.command = command;
    child.stdout?.setEncoding("utf8").on("data", (text: string) => {
      this.stdout += text;
    });
    child.stderr?.setEncoding("utf8").on("data", (text: string) => {
      this.stderr += text;
    });
    this.exited = new Promise((resolve) => {
      // Not "close": an orphaned grandchild may hold the pipes open.
      child.once("exit", (code, signal) => {
        this.#ended = true;
        resolve({ code, signal });
      });
      child.once("error", (error) => {
        this.#ended = true;
        this.stderr += error.message;
        resolve({ code: 127, signal: null });
      });
    });
  }

  get pid(): number {
    return this.child.pid ?? -1;
  }

  get running(): boolean {
    return !this.#ended;
  }

  /** Waits until `pattern` matches what was printed so far, stderr after stdout. */
  async waitFor(pattern: RegExp, timeoutMs = 10_000): Promise<RegExpMatchArray> {
    const found = await until(
      () => pattern.exec(this.stdout) ?? pattern.exec(this.stderr) ?? (this.running ? undefined : null),
      `${pattern} from ${this.command.join(" ")}`,
      timeoutMs,
      () => this.output(),
    );
    if (found === null) {
      throw new Error(`${this.command.join(" ")} ended before it printed ${pattern}\n${this.output()}`);
    }
    return found;
  }

  /** Sends a signal and waits for the end; after `patienceMs`, SIGKILL. */
  async stop(signal: NodeJS.Signals = "SIGTERM", patienceMs = 5_000): Promise<Exit> {
    if (this.running) this.child.kill(signal);
    const ended = await Promise.race([this.exited, sleep(patienceMs, undefined, { ref: false })]);
    if (ended === undefined) this.kill();
    return this.exited;
  }

  /** SIGKILL for the process and its children, which would outlive it. */
  kill(): void {
    if (!this.running) return;
    for (const pid of family(this.pid)) {
      try {
        process.kill(pid, "SIGKILL");
      } catch {
        // Already gone.
      }
    }
  }

  output(): string {
    return `--- stdout\n${this.stdout.slice(-4000)}\n--- stderr\n${this.stderr.slice(-4000)}`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.kill();
    await this.exited;
  }
}

/** Starts a command; it is not waited for. */
export function start(command: readonly string[], options: StartOptions = {}): Running {
  const [file, ...args] = command;
  if (file === undefined) throw new Error("an empty command");
  const child = spawn(file, args, {
    stdio: [options.stdin ? "pipe" : "ignore", "pipe", "pipe"],
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    ...(options.env === undefined ? {} : { env: options.env }),
  });
  return new Running(child, command);
}

/** Runs a command to its end, whatever its exit code. */
export async function finish(
  command: readonly string[],
  options: StartOptions & { timeoutMs?: number } = {},
): Promise<Finished> {
  const running = start(command, options);
  const timer = setTimeout(() => running.kill(), options.timeoutMs ?? 30_000);
  const drained = new Promise((resolve) => running.child.once("close", resolve));
  const exit = await running.exited;
  // What was printed last may still be in the pipe; a grandchild that keeps it open is not waited for.
  await Promise.race([drained, sleep(500)]);
  clearTimeout(timer);
  return { ...exit, stdout: running.stdout, stderr: running.stderr };
}

/** Runs a command that must succeed and returns its stdout. */
export async function succeed(
  command: readonly string[],
  options: StartOptions & { timeoutMs?: number } = {},
): Promise<string> {
  const done = await finish(command, options);
  if (done.code !== 0) {
    throw new Error(
      `${command.join(" ")} ended with ${done.code ?? done.signal}: ${done.stderr || done.stdout}`,
    );
  }
  return done.stdout;
}

/** Asks `probe` until it returns something other than undefined or false. */
export async function until<T>(
  probe: () => T | undefined | false | Promise<T | undefined | false>,
  what: string,
  timeoutMs = 5_000,
  detail?: () => string,
): Promise<T> {
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    const answer = await probe();
    if (answer !== undefined && answer !== false) return answer;
    if (performance.now() > deadline) {
      throw new Error(`no ${what} within ${timeoutMs} ms${detail ? `\n${detail()}` : ""}`);
    }
    await sleep(20);
  }
}

/** The process and its children (nginx: master and workers). */
export function family(pid: number): number[] {
  let children: string[] = [];
  try {
    children = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").split(" ").filter(Boolean);
  } catch {
    // Gone between two looks.
  }
  return [pid, ...children.flatMap((child) => family(Number(child)))];
}

/** Proportional memory of processes, in bytes: shared pages count once over all of them. */
export function memoryBytes(pids: readonly number[]): number {
  return rollup(pids, /^Pss:\s+(\d+) kB/m);
}

/** Resident memory of processes, in bytes: shared pages count for each of them. */
export function residentBytes(pids: readonly number[]): number {
  return rollup(pids, /^Rss:\s+(\d+) kB/m);
}

function rollup(pids: readonly number[], line: RegExp): number {
  let bytes = 0;
  for (const pid of pids) {
    bytes += Number(line.exec(readFileSync(`/proc/${pid}/smaps_rollup`, "utf8"))?.[1] ?? 0) * 1024;
  }
  return bytes;
}

/** Begins to count CPU seconds of processes to the nanosecond; threads that have ended when asked are not in it. */
export function threadSeconds(pids: readonly number[]): () => number {
  const before = new Map(pids.flatMap(threads));
  return () => {
    const spent = pids.flatMap(threads).map(([thread, ns]) => ns - (before.get(thread) ?? 0));
    return spent.reduce((sum, ns) => sum + ns, 0) / 1e9;
  };
}

/** Nanoseconds on a core by thread. */
function threads(pid: number): [thread: string, ns: number][] {
  return readdirSync(`/proc/${pid}/task`).flatMap((thread) => {
    try {
      const stat = readFileSync(`/proc/${pid}/task/${thread}/schedstat`, "utf8");
      return [[thread, Number(stat.split(" ")[0])] as [string, number]];
    } catch {
      // Ended between two looks.
      return [];
    }
  });
}

/** User and system seconds of a process, all threads. */
export function cpuSeconds(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) / 100;
}
