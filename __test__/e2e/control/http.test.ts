import { execFile } from "node:child_process";
import { once } from "node:events";
import { chmod, mkdtemp, rm, writeFile } from "node:fs/promises";
import { connect } from "node:net";
import { networkInterfaces, tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { type Balancer, createBalancer } from "../../../ts/index.ts";
import { ask, httpServer, poolConfig, type TestServer } from "../../support/control.ts";
import { needs } from "../../support/requirements.ts";

let server: TestServer;
let lb: Balancer | undefined;
let directory: string;

beforeEach(async () => {
  server = await httpServer("s1");
  directory = await mkdtemp(join(tmpdir(), "convey-http-"));
});

afterEach(async () => {
  await lb?.close();
  lb = undefined;
  await server.close();
  await rm(directory, { recursive: true });
  delete process.env.CONVEY_STATS_TOKEN;
});

async function start(stats: Record<string, unknown> = { port: 0 }): Promise<{ host: string; port: number }> {
  lb = await createBalancer(poolConfig({ s1: { addr: server.addr } }, { stats: stats as { port: number } }));
  return lb.statsAddress as { host: string; port: number };
}

async function tokenFile(token: string, mode = 0o600): Promise<string> {
  const path = join(directory, "token");
  await writeFile(path, token);
  await chmod(path, mode);
  return path;
}

describe("what it serves", () => {
  test("/stats has the names and types of 0.3.5, and the additions beside them", async () => {
    const answer = await ask(await start(), "/stats");
    expect(answer.status).toBe(200);
    expect(answer.headers["content-type"]).toBe("application/json");
    const stats = JSON.parse(answer.body);
    for (const field of ["total_connections", "current_connections", "total_bytes_tx", "total_bytes_rx"]) {
      expect(stats[field], field).toBe(0);
    }
    for (const part of [stats.backends.pool, stats.frontends.web]) {
      expect(part).toMatchObject({ total_connections: 0, current_connections: 0, bytes_tx: 0, bytes_rx: 0 });
    }
    expect(stats.backends.pool.servers).toEqual({ [server.addr]: true });
    expect(stats.backends.pool.server_details.s1).toMatchObject({
      addr: server.addr,
      up: true,
      weight: 1,
      draining: false,
      current_connections: 0,
    });
    expect(stats).toMatchObject({ mode: "proxy", config_version: 1, draining: false, last_reload: null });
    expect(stats.version).toMatch(/^\d+\.\d+\.\d+/);
    expect(stats.uptime_seconds).toBeTypeOf("number");
    expect(stats).not.toHaveProperty("return_path_visible");
  });

  test("curl reads it", async (context) => {
    needs(context, { tools: ["curl"] });
    const { host, port } = await start();
    const { stdout } = await promisify(execFile)("curl", ["-sf", `http://${host}:${port}/stats`]);
    expect(JSON.parse(stdout).mode).toBe("proxy");
  });

  test("/healthz answers while the process lives; /readyz wants a server that is up", async () => {
    const address = await start();
    expect((await ask(address, "/healthz")).status).toBe(200);
    expect((await ask(address, "/readyz")).status).toBe(200);
    await lb?.drain("pool/s1", { deadlineMs: 0 });
    const answer = await ask(address, "/readyz");
    expect(answer.status).toBe(503);
    expect(JSON.parse(answer.body)).toEqual({
      status: "not ready",
      reason: "no server takes connections for frontend web",
      frontends: { web: false },
    });
    expect((await ask(address, "/healthz")).status).toBe(200);
  });

  test("/readyz is 503 when one of two frontends has no server, names it, and answers for one frontend alone", async () => {
    lb = await createBalancer({
      frontends: {
        good: { listen_addr: "127.0.0.1:0", backend: "good" },
        bare: { listen_addr: "127.0.0.1:0", backend: "bare" },
      },
      backends: {
        good: { servers: { s1: { addr: server.addr } } },
        bare: { servers: { s1: { addr: server.addr } } },
      },
      stats: { port: 0 },
    });
    const address = lb.statsAddress as { host: string; port: number };
    expect((await ask(address, "/readyz")).status).toBe(200);
    lb.setWeight("bare/s1", 0);
    const answer = await ask(address, "/readyz");
    expect([answer.status, JSON.parse(answer.body)]).toEqual([
      503,
      {
        status: "not ready",
        reason: "no server takes connections for frontend bare",
        frontends: { good: true, bare: false },
      },
    ]);
    expect((await ask(address, "/readyz?frontend=good")).status).toBe(200);
    expect((await ask(address, "/readyz?frontend=bare")).status).toBe(503);
    expect((await ask(address, "/readyz?frontend=none")).status).toBe(404);
  });

  test("HEAD answers like GET, without a body", async () => {
    const address = await start();
    for (const path of ["/", "/stats", "/healthz", "/readyz"]) {
      const answer = await ask(address, path, { method: "HEAD" });
      expect([answer.status, answer.body], path).toEqual([200, ""]);
    }
  });

  test("an unknown page is 404 and another method 405, both as JSON", async () => {
    const address = await start();
    const missing = await ask(address, "/nope");
    expect([missing.status, JSON.parse(missing.body).error]).toEqual([404, expect.any(String)]);
    const method = await ask(address, "/stats", { method: "POST", body: "x" });
    expect([method.status, method.headers.allow]).toEqual([405, "GET, HEAD"]);
    expect(JSON.parse(method.body).error).toEqual(expect.any(String));
  });

  test("the page shows every server, runs nothing but its own script, and leaves names inert", async () => {
    const name = `<img src=x onerror="alert(1)">&'`;
    lb = await createBalancer({
      ...poolConfig({ [name]: { addr: server.addr } }),
      stats: { port: 0 },
    });
    const answer = await ask(lb.statsAddress as { host: string; port: number }, "/");
    expect(answer.headers["content-type"]).toContain("text/html");
    expect(answer.body).toContain(server.addr);
    expect(answer.body).toContain("&lt;img src=x onerror=&quot;alert(1)&quot;&gt;&amp;&#39;");
    expect(answer.body).not.toContain("<img");
    const policy = answer.headers["content-security-policy"] as string;
    expect(policy).toMatch(/^default-src 'none'; script-src 'self'; style-src 'self'; /);
    expect(policy).not.toContain("unsafe");
    expect(answer.body).not.toMatch(/<style|<script(?![^>]* src=)/);
  });
});

describe("who may ask", () => {
  test("it listens on loopback unless told otherwise", async () => {
    expect((await start()).host).toBe("127.0.0.1");
  });

  test("another address without a token is refused at start, and nothing is left running", async () => {
    const other = Object.values(networkInterfaces())
      .flat()
      .find((i) => i && !i.internal && i.family === "IPv4")?.address;
    for (const bind of ["0.0.0.0", "::", ...(other ? [other] : [])]) {
      await expect(start({ port: 0, bind }), bind).rejects.toMatchObject({
        code: "CONFIG_INVALID",
        field: "stats.bind",
        message: expect.stringContaining("stats.token_file"),
      });
    }
  });

  test("beyond loopback every route but the probes wants the token", async () => {
    const address = await start({ port: 0, bind: "0.0.0.0", token_file: await tokenFile("s3cret-token\n") });
    const local = { host: "127.0.0.1", port: address.port };
    const bearer = (token: string) => ({ headers: { authorization: `Bearer ${token}` } });
    for (const path of ["/", "/stats", "/nope"]) {
      expect((await ask(local, path)).status, path).toBe(401);
      expect((await ask(local, path, bearer("s3cret-tokem"))).status, path).toBe(401);
      expect((await ask(local, path, bearer(""))).status, path).toBe(401);
    }
    expect((await ask(local, "/stats", bearer("s3cret-token"))).status).toBe(200);
    expect((await ask(local, "/stats")).headers["www-authenticate"]).toContain("Bearer");
    expect((await ask(local, "/healthz")).status).toBe(200);
    expect((await ask(local, "/readyz")).status).toBe(200);
  });

  test("on loopback a token is for changes alone: a browser reads the page and the statistics without it", async () => {
    const address = await start({ port: 0, token_file: await tokenFile("s3cret-token\n") });
    for (const path of ["/", "/stats", "/healthz", "/readyz"]) {
      expect((await ask(address, path)).status, path).toBe(200);
    }
    expect((await ask(address, "/api/v1/reload", { method: "POST" })).status).toBe(401);
  });

  test("the token may come from the environment", async () => {
    process.env.CONVEY_STATS_TOKEN = "from-env";
    const address = await start({ port: 0, bind: "0.0.0.0" });
    const local = { host: "127.0.0.1", port: address.port };
    expect((await ask(local, "/stats")).status).toBe(401);
    const authorized = await ask(local, "/stats", { headers: { authorization: "Bearer from-env" } });
    expect(authorized.status).toBe(200);
  });

  test("a reload takes another token of the same file, says so, and shows neither", async () => {
    const stats = { port: 0, bind: "0.0.0.0", token_file: await tokenFile("first-token") };
    await start(stats);
    const balancer = lb as Balancer;
    const again = () => balancer.update(poolConfig({ s1: { addr: server.addr } }, { stats }));
    const status = async (token: string) => {
      const local = { host: "127.0.0.1", port: balancer.statsAddress?.port ?? 0 };
      return (await ask(local, "/stats", { headers: { authorization: `Bearer ${token}` } })).status;
    };
    await tokenFile("second-token");
    expect(await again()).toMatchObject({
      result: "applied",
      message: "the new configuration is in service: the token of the HTTP server is another one",
    });
    expect([await status("first-token"), await status("second-token")]).toEqual([401, 200]);
    expect((await again()).message).toBe("nothing has changed");
  });

  test("a token file that others can read, is empty, or is missing is refused without showing the token", async () => {
    const refused = async (token_file: string) =>
      await start({ port: 0, token_file }).then(
        () => "started",
        (error: Error) => error.message,
      );
    expect(await refused(await tokenFile("s3cret", 0o640))).toMatch(/mode 0640.*chmod 0600/);
    expect(await refused(await tokenFile("s3cret", 0o640))).not.toContain("s3cret");
    expect(await refused(await tokenFile("s3cret two words", 0o600))).toContain("no usable token");
    expect(await refused(await tokenFile("", 0o600))).toContain("no usable token");
    expect(await refused(join(directory, "none"))).toContain("ENOENT");
  });

  test("a foreign Host is refused on every route but the probes, with the key that would allow it", async () => {
    const address = await start();
    for (const host of ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "10.9.8.7", "[::2]"]) {
      for (const path of ["/", "/stats", "/nope", "/api/v1/reload"]) {
        const answer = await ask(address, path, { headers: { host } });
        expect(answer.status, `${host}${path}`).toBe(421);
        expect(JSON.parse(answer.body).error).toBe(
          `the Host "${host}" is no address of this server; stats.hosts lists further names it has`,
        );
      }
      for (const path of ["/healthz", "/readyz"]) {
        expect((await ask(address, path, { headers: { host } })).status, `${host}${path}`).toBe(200);
      }
    }
    for (const host of ["localhost", `localhost:${address.port}`, "LOCALHOST", "127.0.0.1:1", "[::1]"]) {
      expect((await ask(address, "/stats", { headers: { host } })).status, host).toBe(200);
    }
  });

  test("names and translated addresses in stats.hosts are the server's own, from the next reload on", async () => {
    const config = (hosts: string[]) =>
      poolConfig({ s1: { addr: server.addr } }, { stats: { port: 0, hosts } });
    lb = await createBalancer(config(["lb.example.com", "192.0.2.7"]));
    const asked = async (host: string) =>
      (await ask(lb?.statsAddress as { host: string; port: number }, "/stats", { headers: { host } })).status;
    for (const host of ["lb.example.com", "LB.example.com:7000", "192.0.2.7:80"])
      expect(await asked(host)).toBe(200);
    expect(await asked("lb.example.org")).toBe(421);
    await lb.update(config(["*"]));
    expect(await asked("lb.example.org")).toBe(200);
    for (const bad of ["lb.example.com:80", "http://lb", "a b", ""]) {
      await expect(lb.update(config([bad])), bad).rejects.toMatchObject({ code: "CONFIG_INVALID" });
    }
  });

  test("HTTP/1.0 without a Host is answered, by the probes and on loopback", async () => {
    const address = await start();
    for (const path of ["/healthz", "/readyz", "/stats"]) {
      const socket = connect(address).on("error", () => undefined);
      socket.write(`GET ${path} HTTP/1.0\r\n\r\n`);
      let text = "";
      for await (const chunk of socket) text += chunk;
      expect(text, path).toMatch(/^HTTP\/1\.[01] 200 /);
    }
  });

  test("changes want a token even on loopback, and no other site's Origin", async () => {
    const open = await start();
    expect((await ask(open, "/api/v1/reload", { method: "POST" })).status).toBe(403);
    await lb?.close();
    const address = await start({ port: 0, token_file: await tokenFile("t0ken") });
    const post = (headers: Record<string, string>) =>
      ask(address, "/api/v1/reload", { method: "POST", headers });
    expect((await post({})).status).toBe(401);
    const authorization = "Bearer t0ken";
    expect((await post({ authorization, origin: "http://evil.example" })).status).toBe(403);
    expect((await post({ authorization })).status).toBe(409);
    expect((await ask(address, "/api/v1/reload", { headers: { authorization } })).status).toBe(405);
  });

  test("a change needs no Content-Length, which curl does not send", async (context) => {
    needs(context, { tools: ["curl"] });
    const { port } = await start({ port: 0, token_file: await tokenFile("t0ken") });
    const curl = ["-s", "-o", "/dev/null", "-w", "%{http_code}", "-X", "POST"];
    const url = `http://127.0.0.1:${port}/api/v1/reload`;
    const { stdout } = await promisify(execFile)("curl", [...curl, "-H", "authorization: Bearer t0ken", url]);
    expect(stdout).toBe("409");
  });
});

describe("what a client may cost", () => {
  /** Sends raw bytes and returns what comes until the server closes, with the time that took. */
  async function raw(bytes: string): Promise<{ text: string; ms: number }> {
    const startedAt = performance.now();
    const socket = connect((lb as Balancer).statsAddress as { host: string; port: number });
    socket.on("error", () => undefined);
    socket.write(bytes);
    let text = "";
    socket.on("data", (chunk) => {
      text += chunk.toString("latin1");
    });
    await once(socket, "close");
    return { text, ms: performance.now() - startedAt };
  }

  test("headers beyond 16 KB are refused", async () => {
    await start();
    const { text } = await raw(`GET /stats HTTP/1.1\r\nHost: localhost\r\nX: ${"x".repeat(20_000)}\r\n\r\n`);
    expect(text).toMatch(/^HTTP\/1\.1 431 /);
  });

  test("a body beyond 64 KB is refused", async () => {
    const address = await start();
    const answer = await ask(address, "/stats", { method: "POST", body: "x".repeat(100_000) });
    expect(answer.status).toBe(413);
  });

  test("headers that never end are cut off", async () => {
    await start();
    const { text, ms } = await raw("GET /stats HTTP/1.1\r\nHost: localhost\r\n");
    expect(text).toMatch(/^HTTP\/1\.1 408 /);
    expect(ms).toBeLessThan(10_000);
  });

  test("what is no HTTP is refused and others are still served", async () => {
    const address = await start();
    expect((await raw("\x16\x03\x01\x02\x00\r\n\r\n")).text).toMatch(/^HTTP\/1\.1 400 /);
    expect((await raw("GET /stats HTTP/1.1\r\n\r\n")).text).toMatch(/^HTTP\/1\.1 400 /);
    expect((await ask(address, "/stats")).status).toBe(200);
  });

  test("connections beyond 128 are closed, and those within are served when room comes", async () => {
    const address = await start();
    const sockets = Array.from({ length: 200 }, () => connect(address).on("error", () => undefined));
    await sleep(300);
    const open = sockets.filter((s) => !s.destroyed && s.readyState === "open").length;
    expect(open).toBeLessThanOrEqual(128);
    expect(open).toBeGreaterThan(100);
    for (const socket of sockets) socket.destroy();
    await sleep(100);
    expect((await ask(address, "/stats")).status).toBe(200);
  });

  test("connections on which nobody asks, however many, keep no probe out", async () => {
    const address = await start();
    const sockets = Array.from({ length: 128 }, () => connect(address).on("error", () => undefined));
    await Promise.all(sockets.map((socket) => once(socket, "connect")));
    for (const [i, socket] of sockets.entries())
      if (i % 2 === 0) socket.write("GET /healthz HTTP/1.1\r\nHost:");
    for (let i = 0; i < 5; i++) expect((await ask(address, "/healthz")).status).toBe(200);
    for (const socket of sockets) socket.destroy();
  });
});
