/**
 * Writes to cache lines that workers share, counted for each connection, not timed: the bare data plane with any number of
 * workers runs under valgrind, whose lackey tells every access to memory. `node --import
 * ./__test__/support/typescript.mjs __test__/bench/contention.ts [workers] [connections]`
 */
import { createReadStream, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { loadgenPath, startServer } from "../support/loadgen.ts";
import { folder } from "../support/peers.ts";
import { start, succeed } from "../support/processes.ts";
import { onPath } from "../support/requirements.ts";
import { interruptible } from "./interruption.ts";
import { Lines, stacks } from "./lines.ts";

/** Before what counts: every worker has been at work and has what it needs. */
const WARMUP = 64;

if (!onPath("valgrind")) throw new Error("contention needs valgrind");
const [workers = "16", connections = "256"] = process.argv.slice(2);
await interruptible(() => count(workers, Number(connections)));

async function count(workers: string, connections: number): Promise<void> {
  if (!(connections > 0)) throw new Error("the number of connections must be above 0");
  const trace = join(folder("contention"), "trace");
  await using server = (await startServer()).process;
  const relay = join(await loadgenPath(), "..", "examples/relay");
  await succeed(["cargo", "build", "--release", "--package", "convey-proxy", "--example", "relay"], {
    timeoutMs: 600_000,
  });
  const valgrind = [
    "valgrind",
    "--tool=lackey",
    "--trace-mem=yes",
    "--fair-sched=try",
    `--log-file=${trace}`,
  ];
  const address = /"address":"([^"]+)"/.exec(server.stdout)?.[1] ?? "";
  await using traced = start([...valgrind, relay, "--workers", workers, "127.0.0.1:0", address], {
    stdin: true,
  });
  const [, pid = "", target = ""] = await traced.waitFor(/pid (\d+) listens on (\S+)/, 120_000);
  const work = async (n: number) => {
    const hold = ["hold", "--connect", target, "--connections", String(n), "--at-once", "16"];
    // It closes them when its standard input, which is empty, ends.
    await succeed([await loadgenPath(), ...hold], { timeoutMs: 30_000 + 2000 * n });
    await quiet(trace);
  };
  await work(WARMUP);
  const from = statSync(trace).size;
  const maps = readFileSync(`/proc/${pid}/maps`, "utf8");
  await work(connections);
  const to = statSync(trace).size;
  await traced.stop("SIGKILL");

  const found = stacks(maps);
  if (found.length < Number(workers)) throw new Error(`${found.length} stacks found of ${workers} workers`);
  const lines = new Lines(found);
  const text = createInterface({ input: createReadStream(trace, { start: from, end: to }) });
  for await (const line of text) lines.take(line);
  const { writes, shared, taken } = lines.counts();
  const each = (n: number) => (n / connections).toFixed(1);
  console.log(`${workers} workers, ${connections} connections; for each of them, in user space:`);
  console.log(`${each(writes)} writes outside stacks`);
  console.log(`${each(shared)} writes to lines that another thread reads or writes as well`);
  console.log(`${each(taken)} of them when another thread had the line since this one's last write`);
}

/** Waits until nothing more is done. */
async function quiet(trace: string): Promise<void> {
  for (let before = -1, now = 0; before !== now; ) {
    before = statSync(trace).size;
    await sleep(2000);
    now = statSync(trace).size;
  }
}
