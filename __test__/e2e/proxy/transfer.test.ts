/** Bytes through proxy mode, whole and counted, to the end of each direction. */
import { once } from "node:events";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { expect, test } from "vitest";
import { createBalancer } from "../../../ts/index.ts";
import { poolConfig } from "../../support/control.ts";
import { pool, startConvey } from "../../support/convey.ts";
import { folder, nginxFiles } from "../../support/peers.ts";
import { finish, start, until } from "../../support/processes.ts";
import { needs } from "../../support/requirements.ts";
import {
  dial,
  echo,
  freePort,
  gone,
  listening,
  pour,
  type Received,
  random,
  receive,
  spokenTo,
} from "../../support/sockets.ts";

const MIB = 1024 * 1024;

test("50 MiB each way in random chunks arrive unchanged, and the counters are exact", async () => {
  let atServer: Promise<[string, Received]> | undefined;
  await using server = await listening(
    spokenTo((socket) => {
      atServer = Promise.all([pour(socket, 50 * MIB, random(2)), receive(socket)]);
    }),
  );
  await using lb = await createBalancer(
    poolConfig({ s1: { addr: server.addr } }, { pool: { health_check_interval: 3600 } }),
  );
  const client = await dial(lb.address("web"));
  const got = receive(client);
  const sent = await pour(client, 50 * MIB, random(1));
  const atClient = await got;
  const [answered, heard] = (await atServer) ?? [];
  expect(heard).toEqual({ bytes: 50 * MIB, sha256: sent, end: "fin" });
  expect(atClient).toEqual({ bytes: 50 * MIB, sha256: answered, end: "fin" });
  await until(() => lb.stats().current_connections === 0, "end of the connection");
  const exact = { total_connections: 1, current_connections: 0, bytes_tx: 50 * MIB, bytes_rx: 50 * MIB };
  expect(lb.stats().frontends.web).toMatchObject(exact);
  expect(lb.stats().backends.pool).toMatchObject(exact);
  expect(lb.stats().backends.pool?.server_details.s1).toMatchObject(exact);
});

test("a server that speaks first is heard before the client says a word", async () => {
  await using server = await listening((socket) => socket.write("220 ready\r\n"));
  await using lb = await createBalancer(poolConfig({ s1: { addr: server.addr } }));
  const client = await dial(lb.address("web"));
  const [greeting] = await once(client, "data");
  expect(String(greeting)).toBe("220 ready\r\n");
  client.destroy();
});

test("50 connections at a time open, write, close and reset at random; nothing is lost, every gauge returns to 0", async () => {
  let bytes = 0;
  await using server = await listening((socket) => {
    socket.on("data", (piece: Buffer) => {
      bytes += piece.length;
    });
    echo(socket);
  });
  await using lb = await createBalancer(
    poolConfig({ s1: { addr: server.addr } }, { pool: { health_check_interval: 3600 } }),
  );
  const next = random(4711);
  let finished = 0;
  let whole = 0;
  const one = async () => {
    for (let n = 0; n < 8; n++) {
      const client = await dial(lb.address("web"));
      const got = receive(client);
      if (next() < 0.25) {
        client.write(Buffer.alloc(1 + Math.floor(next() * 100_000), "r"));
        await sleep(next() * 10);
        client.resetAndDestroy();
      } else {
        const length = Math.floor(next() * 200_000);
        const sent = await pour(client, length, next, 20_000);
        expect(await got).toEqual({ bytes: length, sha256: sent, end: "fin" });
        whole += 1;
      }
      finished += 1;
    }
  };
  await Promise.all(Array.from({ length: 50 }, one));
  expect(finished).toBe(400);
  expect(whole).toBeGreaterThan(200);
  await until(() => lb.stats().current_connections === 0, "all connections to end");
  await until(() => lb.stats().total_bytes_tx >= bytes, "all bytes to be counted");
  const stats = lb.stats();
  expect(stats.total_connections).toBe(400);
  expect(stats.frontends.web).toMatchObject({ total_connections: 400, current_connections: 0 });
  expect(stats.backends.pool).toMatchObject({ total_connections: 400, current_connections: 0 });
  expect(stats.backends.pool?.server_details.s1).toMatchObject({ current_connections: 0 });
  expect(stats.backends.pool?.bytes_tx).toBe(stats.total_bytes_tx);
  expect(stats.backends.pool?.bytes_rx).toBe(stats.total_bytes_rx);
});

test("after the client's FIN the server's answer still arrives, whole", async () => {
  await using server = await listening(
    spokenTo((socket) => {
      socket.resume().once("end", () => void sleep(100).then(() => pour(socket, 3 * MIB, random(5))));
    }),
  );
  await using lb = await createBalancer(poolConfig({ s1: { addr: server.addr } }));
  const client = await dial(lb.address("web"));
  const got = receive(client);
  client.end("question");
  expect(await got).toMatchObject({ bytes: 3 * MIB, end: "fin" });
});

test("after the server's FIN the client can still send", async () => {
  let arrived: Promise<Received> | undefined;
  await using server = await listening(
    spokenTo((socket) => {
      arrived = receive(socket);
      socket.end("answer");
    }),
  );
  await using lb = await createBalancer(poolConfig({ s1: { addr: server.addr } }));
  const client = await dial(lb.address("web"));
  client.write("?");
  expect(await receive(client)).toMatchObject({ bytes: 6, end: "fin" });
  await pour(client, 3 * MIB, random(6));
  expect(await arrived).toMatchObject({ bytes: 3 * MIB + 1, end: "fin" });
});

test("a server that closes first ends the client at once", async () => {
  await using server = await listening(spokenTo((socket) => void socket.resume().end("bye")));
  await using lb = await createBalancer(poolConfig({ s1: { addr: server.addr } }));
  const client = await dial(lb.address("web"));
  const begun = performance.now();
  client.write("?");
  expect(await receive(client)).toMatchObject({ bytes: 3, end: "fin" });
  expect(performance.now() - begun).toBeLessThan(500);
  client.destroy();
});

test("a reset from either side reaches the other as a reset", async () => {
  await using server = await listening((socket) => void socket.once("data", () => socket.resetAndDestroy()));
  await using lb = await createBalancer(poolConfig({ s1: { addr: server.addr } }));
  const client = await dial(lb.address("web"));
  const got = receive(client);
  client.write("reset me");
  expect(await got).toMatchObject({ end: "reset" });
  await until(() => lb.stats().reasons.server_reset === 1, "the reason to be counted");

  const atServer: Promise<Received>[] = [];
  await using other = await listening(spokenTo((socket) => void atServer.push(receive(socket))));
  await lb.update(poolConfig({ s2: { addr: other.addr } }));
  const second = await dial(lb.address("web"));
  second.write("x");
  await until(() => atServer.length === 1, "connection at the server");
  second.resetAndDestroy();
  expect(await atServer[0]).toMatchObject({ end: "reset" });
  await until(() => lb.stats().reasons.client_reset === 1, "the reason to be counted");
});

test("a slow reader gets everything before the FIN, while the process holds no more than its buffers", async () => {
  const total = 64 * MIB;
  let sent: Promise<string> | undefined;
  await using server = await listening((socket) => {
    socket.once("data", () => {
      sent = pour(socket, total, random(7));
    });
  });
  await using product = await startConvey(pool({ s1: server.addr }));
  const client = await dial(product.front);
  client.pause();
  client.write("go");
  const before = residentBytes(product.process.pid);
  await sleep(700);
  const stuck = (await product.stats()).total_bytes_rx;
  expect(stuck).toBeLessThan(total / 2);
  expect(residentBytes(product.process.pid) - before).toBeLessThan(16 * MIB);
  const got = receive(client);
  client.resume();
  expect(await got).toEqual({ bytes: total, sha256: await sent, end: "fin" });
  client.end();
});

test("a peer that never reads is ended by the idle timeout, on both sides, with the reason counted", async () => {
  const ended: Promise<void>[] = [];
  await using server = await listening((socket) => {
    socket.once("data", () => {
      ended.push(gone(socket));
      void pour(socket, 64 * MIB, random(8));
    });
  });
  await using lb = await createBalancer(
    poolConfig({ s1: { addr: server.addr } }, { pool: { idle_timeout_ms: 600 } }),
  );
  const client = await dial(lb.address("web"));
  client.pause();
  client.write("go");
  await until(() => lb.stats().reasons.idle_timeout === 1, "the idle timeout", 8000);
  await ended[0];
  expect(lb.stats().current_connections).toBe(0);
  client.destroy();
});

test("a server's early answer to an upload arrives as often as without a balancer, however nginx closes", async (context) => {
  needs(context, { tools: ["nginx", "curl"] });
  const body = join(folder("upload"), "body");
  writeFileSync(body, Buffer.alloc(8 * MIB, "u"));
  for (const closing of ["lingering_close off", "lingering_timeout 100ms"]) {
    const listen = `127.0.0.1:${await freePort()}`;
    await using _nginx = start(
      nginxFiles(listen, folder("root"), ["client_max_body_size 1k;", `${closing};`]),
    );
    await until(() => answered(listen), "nginx to answer", 10_000);
    await using lb = await createBalancer(poolConfig({ s1: { addr: listen } }));
    const { host, port } = lb.address("web");
    for (const target of [listen, `${host}:${port}`]) {
      const seen: string[] = [];
      for (let n = 0; n < 30; n++) {
        const args = ["-s", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "20", "-H", "Expect:"];
        // curl may add that it could not send the rest.
        const { stdout } = await finish(["curl", ...args, "-T", body, `http://${target}/body`]);
        seen.push(stdout);
      }
      expect(seen, `${closing}, ${target}`).toEqual(Array(30).fill("413"));
    }
  }
});

test("a process that was stopped for longer than the idle timeout loses nothing that waited for it", async () => {
  await using server = await listening(echo);
  await using product = await startConvey(
    pool({ s1: server.addr }, { backend: ["idle_timeout_ms = 600", "health_check_interval = 3600"] }),
  );
  // Some have spoken before, some have not; some say their last word meanwhile, some have it said already.
  const clients = await Promise.all(Array.from({ length: 40 }, () => dial(product.front)));
  await until(async () => (await product.stats()).current_connections === 40, "all to stand");
  const answers = clients.map(receive);
  clients.forEach((client, n) => {
    if (n % 2 === 0) client.write("before ");
  });
  await until(async () => (await product.stats()).total_bytes_rx === 20 * 7, "the first answers");
  process.kill(product.process.pid, "SIGSTOP");
  try {
    clients.forEach((client, n) => {
      if (n % 4 < 2) client.end("meanwhile");
      else client.write("meanwhile");
    });
    await sleep(2500);
  } finally {
    process.kill(product.process.pid, "SIGCONT");
  }
  clients.forEach((client, n) => {
    if (n % 4 >= 2) client.end();
  });
  const expected = clients.map((_, n) => ({ bytes: n % 2 === 0 ? 16 : 9, end: "fin" }));
  expect(await Promise.all(answers)).toMatchObject(expected);
  expect((await product.stats()).reasons.idle_timeout).toBeUndefined();
});

test("the ancestor's missing TCP_NODELAY: 10 KB answers written in small pieces take no 40 ms", async () => {
  await using server = await listening((socket) => {
    socket.on("data", () => {
      for (let piece = 0; piece < 5; piece++) socket.write(Buffer.alloc(2048, "a"));
    });
  });
  await using lb = await createBalancer(poolConfig({ s1: { addr: server.addr } }));
  const client = await dial(lb.address("web"));
  const times: number[] = [];
  for (let n = 0; n < 50; n++) {
    const begun = performance.now();
    let left = 10_240;
    const whole = new Promise<void>((resolve) => {
      const take = (piece: Buffer) => {
        left -= piece.length;
        if (left > 0) return;
        client.off("data", take);
        resolve();
      };
      client.on("data", take);
    });
    client.write("a question in ");
    client.write("two pieces");
    await whole;
    times.push(performance.now() - begun);
    await sleep(2);
    client.read();
  }
  client.destroy();
  times.sort((a, b) => a - b);
  // One delayed ACK is 40 ms; with Nagle's algorithm on, most of the fifty would wait for one.
  expect(times[40]).toBeLessThan(25);
});

/** Whether an HTTP server answers there. */
async function answered(listen: string): Promise<boolean> {
  return (await finish(["curl", "-s", "-o", "/dev/null", "--max-time", "2", `http://${listen}/`])).code === 0;
}

function residentBytes(pid: number): number {
  const kb = /^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1];
  return Number(kb) * 1024;
}
