/** What is done about servers that fail: ejection by clients' connections, and ends for those of one that went down. */
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { describe, expect, test, vi } from "vitest";
import { type Balancer, createBalancer } from "../../../ts/index.ts";
import { collect, echoServer, poolConfig, serverStats } from "../../support/control.ts";
import { folder } from "../../support/peers.ts";
import { start } from "../../support/processes.ts";
import { needs } from "../../support/requirements.ts";
import { dial, freePort, listening, receive } from "../../support/sockets.ts";

/** A server that greets nobody, and echoes. */
const quiet = () =>
  listening((socket) => void socket.pipe(socket).on("error", () => undefined), "127.0.0.1", 0);

/** A server that ends every connection at the first byte of its client. */
const ending = (end: (socket: Socket) => void) =>
  listening((socket) => {
    socket.on("error", () => undefined);
    socket.once("data", () => end(socket));
  });

/** One client that sends a word and reads to the end, or to the first answer. */
async function visit(lb: Balancer, says = "hello"): Promise<string> {
  const socket = connect({ ...lb.address("web") });
  let heard = "";
  socket.on("error", () => undefined);
  socket.on("data", (data) => {
    heard += data;
    socket.destroy();
  });
  socket.on("end", () => socket.destroy());
  if (says !== "") socket.write(says);
  await new Promise((closed) => socket.once("close", closed));
  return heard;
}

const pool = (more: object) => ({ pool: { health_check_interval: 3600, connect_timeout_ms: 500, ...more } });

const servers = (seen: unknown[]) => seen.filter((it) => (it as { type: string }).type === "server");

describe("eject_after", () => {
  test.each([
    ["resets", (socket: Socket) => void socket.resetAndDestroy()],
    ["closes", (socket: Socket) => void socket.end()],
  ])(
    "a server that %s before its first byte is kept out after so many times in a row, and comes back by itself",
    async (_, end) => {
      await using bad = await ending(end);
      await using good = await quiet();
      const config = poolConfig(
        { bad: { addr: bad.addr }, good: { addr: good.addr } },
        pool({ eject_after: 3, eject_ms: 1500 }),
      );
      // What is explained has to know its port beforehand.
      const frontends = { web: { listen_addr: `127.0.0.1:${await freePort()}`, backend: "pool" } };
      await using lb = await createBalancer({ ...config, frontends });
      const seen = collect(lb);
      await vi.waitFor(() => expect(serverStats(lb, "bad").last_check?.ok).toBe(true));
      for (let n = 0; n < 6; n++) await visit(lb);
      await vi.waitFor(() =>
        expect(serverStats(lb, "bad")).toMatchObject({ up: false, ejected_until: expect.any(String) }),
      );
      expect(serverStats(lb, "bad").reasons).toEqual({ server_unanswered: 3 });
      for (let n = 0; n < 6; n++) expect(await visit(lb)).toBe("hello");
      const { port, host } = lb.address("web");
      const { steps } = await lb.explain("tcp", "127.0.0.1:9", `${host}:${port}`);
      expect(steps.find(({ kind }) => kind === "server_down")?.text).toMatch(
        /"bad" is down: ejected until .*3 failures in a row/,
      );
      expect(await lb.metrics()).toMatch(/convey_server_ejected\{backend="pool",server="bad"\} 1/);
      await vi.waitFor(() => expect(serverStats(lb, "bad")).toMatchObject({ up: true }), { timeout: 5000 });
      expect(serverStats(lb, "bad").ejected_until).toBeUndefined();
      expect(servers(seen)).toMatchObject([
        {
          server: "bad",
          state: "down",
          left: 1,
          ejected_until: expect.any(Date),
          cause:
            "ejected for 1500 ms: 3 failures in a row, last: it ended the connection before its first byte",
        },
        { server: "bad", state: "up", left: 2, cause: "its ejection has ended" },
      ]);
    },
  );

  test("failed connects count, and a first byte begins the row anew", async () => {
    await using flaky = await listening((socket) => {
      socket.on("error", () => undefined);
      socket.on("data", (data) => (String(data) === "ok" ? socket.write("ok") : socket.resetAndDestroy()));
    });
    await using good = await quiet();
    await using lb = await createBalancer(
      poolConfig(
        { flaky: { addr: flaky.addr }, good: { addr: good.addr } },
        pool({ eject_after: 3, retries: 0, health_check_fall: 1000 }),
      ),
    );
    const both = async (says: string, times: number) => {
      for (let n = 0; n < 2 * times; n++) await visit(lb, says);
    };
    for (let n = 0; n < 3; n++) {
      await both("bad", 2);
      await both("ok", 1);
    }
    expect(serverStats(lb, "flaky")).toMatchObject({ up: true, reasons: { server_unanswered: 6 } });
    await flaky[Symbol.asyncDispose]();
    await both("x", 3);
    await vi.waitFor(() => expect(serverStats(lb, "flaky").ejected_until).toBeDefined());
    expect(serverStats(lb, "flaky").reasons).toMatchObject({ connect_refused: 3 });
  });

  test("clients that say nothing, leave first or are answered speak against nobody", async () => {
    await using hanging = await listening((socket) => void socket.on("error", () => undefined).resume());
    await using shut = await listening((socket) => void socket.on("error", () => undefined).end());
    await using lb = await createBalancer(
      poolConfig({ hanging: { addr: hanging.addr }, shut: { addr: shut.addr } }, pool({ eject_after: 1 })),
    );
    await vi.waitFor(() => expect(serverStats(lb, "shut").last_check?.ok).toBe(true));
    for (let n = 0; n < 6; n++) {
      const socket = await dial(lb.address("web"));
      // The one that ends at once is met by silence; the one that hangs is left by its client.
      const first = await Promise.race([receive(socket), sleep(100)]);
      if (first === undefined) {
        socket.write("hello");
        await sleep(50);
      }
      socket.destroy();
    }
    await sleep(100);
    expect(lb.stats().reasons.server_unanswered).toBeUndefined();
    expect(Object.values(lb.stats().backends.pool?.servers ?? {})).toEqual([true, true]);
  });

  test("no more than the share is kept out, and enabling a server ends it", async () => {
    await using one = await ending((socket) => void socket.end());
    await using two = await ending((socket) => void socket.end());
    await using lb = await createBalancer(
      poolConfig(
        { one: { addr: one.addr }, two: { addr: two.addr } },
        pool({ eject_after: 2, eject_ms: 60_000 }),
      ),
    );
    const seen = collect(lb);
    for (let n = 0; n < 12; n++) await visit(lb);
    await vi.waitFor(() =>
      expect(seen).toContainEqual(
        expect.objectContaining({
          type: "engine",
          kind: "warning",
          message: expect.stringMatching(
            /is not ejected: max_ejected_percent = 50 of 2 allows 1 \(2 failures/,
          ),
        }),
      ),
    );
    const out = ["one", "two"].filter((name) => !serverStats(lb, name).up);
    expect(out).toHaveLength(1);
    // A reload that has nothing to do with it changes nothing.
    await lb.update({ ...lb.config, log: { level: "debug" } });
    expect(serverStats(lb, out[0] as string).up).toBe(false);
    lb.enable(`pool/${out[0]}` as never);
    await vi.waitFor(() => expect(serverStats(lb, out[0] as string).up).toBe(true));
  });

  test("HAProxy that refuses requests without an answer is kept out", async (context) => {
    needs(context, { tools: ["haproxy"] });
    const port = await freePort();
    const file = join(folder("health-haproxy"), "haproxy.cfg");
    const timeouts = "timeout client 5s\n timeout server 5s\n timeout connect 5s";
    const rules =
      "tcp-request inspect-delay 5s\n tcp-request content reject if { req.len gt 0 }\n server none 127.0.0.1:1";
    writeFileSync(
      file,
      `defaults\n mode tcp\n ${timeouts}\nlisten web\n bind 127.0.0.1:${port}\n ${rules}\n`,
    );
    await using _ = start(["haproxy", "-db", "-f", file]);
    await using good = await quiet();
    await using lb = await createBalancer(
      poolConfig(
        { haproxy: { addr: `127.0.0.1:${port}` }, good: { addr: good.addr } },
        { pool: { eject_after: 3 } },
      ),
    );
    await vi.waitFor(() => expect(serverStats(lb, "haproxy").last_check?.ok).toBe(true), { timeout: 10_000 });
    await vi.waitFor(() => expect(serverStats(lb, "haproxy").up).toBe(true), { timeout: 10_000 });
    for (let n = 0; n < 6; n++) await visit(lb, "GET / HTTP/1.0\r\n\r\n");
    await vi.waitFor(() => expect(serverStats(lb, "haproxy").ejected_until).toBeDefined());
    expect(serverStats(lb, "haproxy").last_check?.ok).toBe(true);
  });
});

describe("on_down", () => {
  async function downAfter(on_down: "keep" | "reset") {
    // Its checks can be made to fail while its connections live on.
    let healthy = true;
    const probe = await listening(
      (socket) => void socket.on("error", () => undefined).end(healthy ? "ok" : "no"),
    );
    const server = await echoServer("one");
    const lb = await createBalancer(
      poolConfig(
        { one: { addr: server.addr } },
        {
          pool: {
            on_down,
            // In their place.
            ...({ health_check_interval: undefined, health_check_fast_interval_ms: undefined } as object),
            health_check: {
              type: "send_expect",
              expect: "ok",
              port: probe.port,
              interval_ms: 100,
              fast_interval_ms: 100,
              fall: 2,
            },
          },
        },
      ),
    );
    const seen = collect(lb);
    await vi.waitFor(() => expect(serverStats(lb, "one").last_check?.ok).toBe(true));
    const socket = await dial(lb.address("web"));
    const received = receive(socket);
    await once(socket, "data");
    healthy = false;
    await vi.waitFor(() => expect(serverStats(lb, "one").up).toBe(false), { timeout: 5000 });
    const close = async () => {
      socket.destroy();
      for (const it of [lb, server, probe]) await it[Symbol.asyncDispose]();
    };
    return { lb, socket, received, seen, [Symbol.asyncDispose]: close };
  }

  test('"reset" resets the connections of a server that went down', async () => {
    await using it = await downAfter("reset");
    expect((await it.received).end).toBe("reset");
    expect(servers(it.seen)).toMatchObject([
      {
        state: "down",
        cause: "2 checks in a row failed, last: closed after an answer without the expected text: no",
      },
    ]);
    expect(serverStats(it.lb, "one").last_check).toMatchObject({ ok: false, answer: "no" });
  });

  test('"keep" leaves them open', async () => {
    await using it = await downAfter("keep");
    it.socket.write("still there");
    expect(String((await once(it.socket, "data"))[0])).toBe("still there");
  });

  test("a server whose checks are given up by a reload is up again", async () => {
    await using it = await downAfter("keep");
    const { config } = it.lb;
    const { pool } = config.backends;
    await it.lb.update({
      ...config,
      backends: { pool: { ...pool, health_check: { type: "none" } } },
    } as never);
    expect(serverStats(it.lb, "one")).toMatchObject({ up: true, last_check: null });
  });
});
