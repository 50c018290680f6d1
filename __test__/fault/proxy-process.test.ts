/** The file's folder, a data thread and the event loop go wrong under a running product. */
import { once } from "node:events";
import {
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { beforeAll, expect, test } from "vitest";
import { type Product, pool, runConvey, startConvey } from "../support/convey.ts";
import { failed, load, loadgenPath, startServer } from "../support/loadgen.ts";
import { folder } from "../support/peers.ts";
import { start, until } from "../support/processes.ts";
import { needs } from "../support/requirements.ts";
import { dial, echo, type Listening, listening } from "../support/sockets.ts";

// Built here, so that a first build is not charged to a test.
beforeAll(() => loadgenPath(), 300_000);

const named = (name: string): Promise<Listening> => listening((socket) => void socket.end(name));

async function whoAnswers(product: Product): Promise<string> {
  const socket = await dial(product.front);
  const [name] = await once(socket, "data");
  socket.destroy();
  return String(name);
}

test("a swapped ..data link is followed, again and again", async () => {
  await using a = await named("a");
  await using b = await named("b");
  const home = folder("configmap");
  const version = (name: string, toml: string) => {
    mkdirSync(join(home, name));
    writeFileSync(join(home, name, "config.toml"), toml, { mode: 0o600 });
    symlinkSync(name, join(home, "..data_tmp"));
    renameSync(join(home, "..data_tmp"), join(home, "..data"));
  };
  version("..v1", pool({ s1: a.addr }));
  symlinkSync("..data/config.toml", join(home, "config.toml"));
  await using product = await runConvey(join(home, "config.toml"));
  expect(await whoAnswers(product)).toBe("a");
  for (const [n, name] of ["b", "a", "b"].entries()) {
    version(`..v${n + 2}`, pool({ s1: name === "a" ? a.addr : b.addr }));
    rmSync(join(home, `..v${n + 1}`), { recursive: true });
    await until(async () => (await whoAnswers(product)) === name, `version ${n + 2} in service`);
  }
});

test("a panic in a data thread is reported and the thread runs again; it is never silently dead", async (context) => {
  needs(context, { root: true, tools: ["strace", "curl"] });
  await using server = await listening(echo);
  await using product = await startConvey(pool({ s1: server.addr }, { top: ["[proxy]", "workers = 1"] }));
  const { pid } = product.process;
  const worker = dataThread(pid);
  // tokio panics when epoll answers what it never should: a fault from outside, in the shipped program.
  const inject = "epoll_wait,epoll_pwait,epoll_pwait2:error=EBADF:when=1";
  await using strace = start([
    "strace",
    "-p",
    String(worker),
    "-e",
    "trace=epoll_wait,epoll_pwait,epoll_pwait2",
    "-e",
    `inject=${inject}`,
  ]);
  await strace.waitFor(/attached/);
  (await dial(product.front)).destroy();
  const [line] = await product.process.waitFor(/^.*"kind":"worker-panicked".*$/m, 10_000);
  await strace.stop("SIGINT");
  expect(JSON.parse(line)).toMatchObject({ level: "error", worker: "convey-proxy-0" });
  const answer = await until(async () => {
    const socket = await dial(product.front).catch(() => undefined);
    if (socket === undefined) return undefined;
    socket.write("alive");
    const heard = await Promise.race([once(socket, "data"), sleep(300, undefined)]);
    socket.destroy();
    return heard === undefined ? undefined : String(heard[0]);
  }, "service again");
  expect(answer).toBe("alive");
});

test("with Node blocked for 10 s established and new connections are served as ever", async () => {
  const server = await startServer();
  await using _ = server.process;
  const root = resolve(import.meta.dirname, "../..");
  await using child = start(
    [
      process.execPath,
      "--import",
      join(root, "__test__/support/typescript.mjs"),
      join(root, "__test__/support/blocked-loop.ts"),
      server.address,
    ],
    { stdin: true, cwd: root },
  );
  const [, port] = await child.waitFor(/"port":(\d+)/);
  child.child.stdin?.write("10000\n");
  const connect = ["--connect", `127.0.0.1:${port}`, "--duration", "8", "--warmup", "0.5"];
  const [kept, fresh] = await Promise.all([
    load(["requests", "--connections", "20", "--rate", "500", ...connect]),
    load(["requests", "--fresh", "--connections", "20", "--rate", "200", ...connect]),
  ]);
  expect(child.stdout).not.toContain("awake");
  expect([failed(kept), failed(fresh)]).toEqual([0, 0]);
  expect(kept.requests).toBeGreaterThan(3900);
  expect(fresh.requests).toBeGreaterThan(1550);
  expect(kept.latency_us?.p99).toBeLessThan(250_000);
  await child.waitFor(/"up":true,"transitions":0/);
  child.child.stdin?.end();
  expect(await child.exited).toEqual({ code: 0, signal: null });
});

/** The thread id of the first data-plane thread, found by its name. */
function dataThread(pid: number): number {
  const names = readdirSync(`/proc/${pid}/task`).map((tid) => ({
    tid: Number(tid),
    name: readFileSync(`/proc/${pid}/task/${tid}/comm`, "utf8").trim(),
  }));
  const found = names.find(({ name }) => /^convey-/.test(name));
  if (found === undefined)
    throw new Error(`no data thread among ${names.map(({ name }) => name).join(", ")}`);
  return found.tid;
}
