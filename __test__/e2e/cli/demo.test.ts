import { spawn } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:net";
import { describe, expect, test } from "vitest";
import { until } from "../../support/processes.ts";
import { freePort } from "../../support/sockets.ts";
import { ROOT, serving } from "./convey.ts";

const TRY = /curl (http:\/\/127\.0\.0\.1:\d+\/)/;
const STATS = /statistics +(http:\/\/127\.0\.0\.1:\d+\/stats)/;

describe("demo", () => {
  test("serves what it says it serves, tells each second, and ends with exit code 0", async () => {
    await using demo = serving(["demo", `--port=${await freePort()}`, `--stats-port=${await freePort()}`]);
    const [, url] = await demo.waitFor(TRY);
    const [, stats] = await demo.waitFor(STATS);
    const answers = [];
    for (let round = 0; round < 6; round++) answers.push(await (await fetch(url as string)).text());
    expect(answers.sort()).toEqual(
      ["one", "one", "three", "three", "two", "two"].map((name) => `Hello from server ${name}\n`),
    );
    const told = (await (await fetch(stats as string)).json()) as { total_connections: number };
    expect(told.total_connections).toBe(6);
    await demo.waitFor(
      /^\d\d:\d\d:\d\d +6 conn\/s, 0 open \| one up +33 % \(2\) \| two up +33 % \(2\) \| three up +33 % \(2\)$/m,
    );
    expect(await demo.stop("SIGINT")).toEqual({ code: 0, signal: null });
    expect(demo.stdout).toMatch(/all stopped\n$/);
    expect(demo.stderr).toBe("");
  });

  test("takes the next port when the usual one is taken", async () => {
    const holder = createServer();
    await new Promise<void>((resolve) => holder.listen(0, "127.0.0.1", resolve));
    const { port } = holder.address() as { port: number };
    await using demo = serving(["demo", `--port=${port}`, `--stats-port=${port}`]);
    const [, url] = await demo.waitFor(TRY);
    const [, stats] = await demo.waitFor(STATS);
    expect(new URL(url as string).port).not.toBe(String(port));
    expect(new URL(stats as string).port).not.toBe(new URL(url as string).port);
    expect((await fetch(url as string)).status).toBe(200);
    expect((await fetch(stats as string)).status).toBe(200);
    holder.close();
  });

  test("on a terminal: 1 switches a server off and on, its state follows, Ctrl-C ends with exit code 0", async () => {
    const command = `'${process.execPath}' '${ROOT}/dist/cli/main.js' demo --port=${await freePort()} --stats-port=${await freePort()}`;
    const terminal = spawn("script", ["-qec", command, "/dev/null"], { stdio: ["pipe", "pipe", "inherit"] });
    let shown = "";
    terminal.stdout.on("data", (text) => {
      shown += text;
    });
    const ended = once(terminal, "exit");
    await until(
      () => /three up/.test(shown),
      "the first line",
      10_000,
      () => shown,
    );
    terminal.stdin.write("1");
    await until(
      () => /server demo\/one is down[\s\S]*one DOWN/.test(shown),
      "server one down",
      10_000,
      () => shown,
    );
    terminal.stdin.write("1");
    await until(
      () => /server demo\/one is up[\s\S]*one up/.test(shown),
      "server one up",
      10_000,
      () => shown,
    );
    terminal.stdin.write("\u0003");
    expect(await ended).toEqual([0, null]);
    expect(shown).toContain("all stopped");
  });
});
