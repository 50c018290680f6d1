import { once } from "node:events";
import { connect } from "node:net";
import { describe, expect, test } from "vitest";
import { type Api, api, TOKEN } from "../../support/api.ts";
import { ask } from "../../support/control.ts";

const PATH = "/api/v1/servers/pool/s1";

/** Sends bytes as they are; what comes back until the server closes. */
async function raw({ address }: Api, text: string): Promise<string> {
  const socket = connect(address);
  socket.on("error", () => undefined);
  socket.write(text);
  let got = "";
  socket.on("data", (bytes) => {
    got += bytes.toString("latin1");
  });
  await once(socket, "close");
  return got;
}

describe("what the API refuses, it names", () => {
  test("bodies that are no JSON, no object, of another type, or say what nobody knows", async () => {
    await using it = await api();
    const patch = async (body: string, type = "application/json") => {
      const answer = await it.call("PATCH", PATH, body, { "content-type": type });
      return [answer.status, JSON.parse(answer.body)];
    };
    expect(await patch("{")).toMatchObject([400, { error: "the body is no valid JSON", code: "INVALID" }]);
    expect(await patch("")).toMatchObject([400, { error: "a body is needed: application/json" }]);
    for (const body of ["null", "[]", "3", '"x"', '{"weight":"3"}', '{"weight":65536}', '{"weight":1.5}']) {
      expect(await patch(body), body).toMatchObject([400, { code: "INVALID", problems: [{}] }]);
    }
    expect(await patch('{"wieght":3,"state":"off"}')).toMatchObject([
      400,
      {
        problems: [
          { path: "body.state", message: expect.any(String) },
          { path: "body", message: expect.stringContaining("wieght") },
        ],
      },
    ]);
    expect(await patch("{}")).toMatchObject([400, { error: expect.stringContaining("nothing to change") }]);
    expect(await patch('{"deadline_ms":1}')).toMatchObject([400, { code: "INVALID" }]);
    expect(await patch('{"__proto__":{"state":"draining"}}')).toMatchObject([400, {}]);
    for (const type of [
      "text/plain",
      "application/x-www-form-urlencoded",
      "multipart/form-data; boundary=x",
      "",
    ]) {
      expect(await patch('{"weight":3}', type), type).toMatchObject([
        415,
        { code: "UNSUPPORTED_MEDIA_TYPE" },
      ]);
    }
    expect(it.lb.stats().backends.pool?.server_details.s1).toMatchObject({ weight: 1, draining: false });
  });

  test("queries that do not fit", async () => {
    await using it = await api();
    for (const query of ["?wait=yes", "?wait=true&wait=false"]) {
      expect(await it.json("PATCH", `${PATH}${query}`, { weight: 1 }), query).toMatchObject([
        400,
        { code: "INVALID", problems: [{ path: "query.wait" }] },
      ]);
    }
    for (const query of ["?deadline_ms=-1", "?deadline_ms=x", "?deadline_ms=1e99"]) {
      expect(await it.json("DELETE", `${PATH}${query}`), query).toMatchObject([400, { code: "INVALID" }]);
    }
  });

  test("bodies that are too large, before they are read; a list of servers or a plan may be larger", async () => {
    await using it = await api();
    const large = `{"x":"${"x".repeat(100_000)}"}`;
    expect(await it.json("PATCH", PATH, large)).toMatchObject([413, { code: "TOO_LARGE" }]);
    const servers = Array.from({ length: 2000 }, (_, i) => ({ name: `n${i}`, addr: it.servers[0]?.addr }));
    expect(JSON.stringify(servers).length).toBeGreaterThan(64 * 1024);
    expect((await it.json("PUT", "/api/v1/backends/pool/servers", servers))[0]).toBe(200);
    const head = `PUT /api/v1/backends/pool/servers HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer ${TOKEN}\r\n`;
    expect(await raw(it, `${head}Content-Length: 99999999\r\nConnection: close\r\n\r\n`)).toMatch(
      /^HTTP\/1\.1 413 [\s\S]*"code":"TOO_LARGE"/,
    );
    expect(await raw(it, `${head}Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n\r\n`)).toMatch(
      /^HTTP\/1\.1 411 [\s\S]*"code":"LENGTH_REQUIRED"/,
    );
  });

  test("paths that lead elsewhere: dots, encoded slashes, broken escapes", async () => {
    await using it = await api();
    const get = async (path: string) =>
      await raw(it, `GET ${path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n`);
    for (const path of [
      "/api/v1/servers/pool/s1/",
      "/api/v1/servers/pool%2Fs1",
      "/api/v1/servers/pool/..%2F..%2Fetc%2Fpasswd",
      "/api/v1/servers/pool/%00",
      "/api/v1/servers/pool/%",
      "/api/v1/servers/pool/%E0%A4%A",
      "/api/v1/servers//s1",
      "/../../etc/passwd",
      "//etc/passwd",
    ]) {
      const answer = await get(path);
      expect(answer, path).toMatch(/^HTTP\/1\.1 40[04] [\s\S]*"code":"(NOT_FOUND|INVALID)"/);
    }
    expect((await it.json("GET", PATH))[0]).toBe(200);
  });

  test("methods that a path does not have, with those that it has", async () => {
    await using it = await api();
    const answer = await it.call("PUT", PATH, {});
    expect([answer.status, answer.headers.allow]).toEqual([405, "GET, HEAD, PATCH, DELETE"]);
    expect(JSON.parse(answer.body)).toMatchObject({ code: "METHOD_NOT_ALLOWED" });
    for (const method of ["OPTIONS", "TRACE", "PROPFIND"]) {
      const text = await raw(
        it,
        `${method} /api/v1/stats HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer ${TOKEN}\r\nConnection: close\r\n\r\n`,
      );
      expect(text, method).toMatch(/^HTTP\/1\.1 40[05] /);
    }
  });

  test("what no parser takes is an error of the same shape", async () => {
    await using it = await api();
    expect(await raw(it, "nonsense\r\n\r\n")).toMatch(/^HTTP\/1\.1 400 [\s\S]*"code":"INVALID"/);
    expect(await raw(it, "GET /stats HTTP/1.1\r\n\r\n")).toMatch(/^HTTP\/1\.1 400 [\s\S]*"code":"INVALID"/);
    expect(await raw(it, `GET / HTTP/1.1\r\nX: ${"x".repeat(20_000)}\r\n\r\n`)).toMatch(
      /^HTTP\/1\.1 431 [\s\S]*"code":"HEADERS_TOO_LARGE"/,
    );
  });
});

describe("who may change something", () => {
  const CHANGES: [string, string, unknown][] = [
    ["PATCH", PATH, { weight: 9 }],
    ["DELETE", PATH, undefined],
    ["POST", "/api/v1/backends/pool/servers", { name: "x", addr: "127.0.0.1:1" }],
    ["PUT", "/api/v1/backends/pool/servers", []],
    ["POST", "/api/v1/reload", undefined],
    ["POST", "/api/v1/reload/confirm", undefined],
    ["POST", "/api/v1/plan", undefined],
  ];

  test("every change wants the token, and refuses another site's page that has it", async () => {
    await using it = await api();
    for (const [method, path, body] of CHANGES) {
      const without = await it.call(method, path, body, { authorization: "" });
      expect([without.status, JSON.parse(without.body).code], `${method} ${path}`).toEqual([
        401,
        "UNAUTHORIZED",
      ]);
      const foreign = await it.call(method, path, body, { origin: "http://evil.example" });
      expect([foreign.status, JSON.parse(foreign.body).code], `${method} ${path}`).toEqual([
        403,
        "FORBIDDEN",
      ]);
      const host = await it.call(method, path, body, { host: "evil.example" });
      expect([host.status, JSON.parse(host.body).code], `${method} ${path}`).toEqual([421, "MISDIRECTED"]);
    }
    expect(it.lb.stats().config_version).toBe(1);
    expect(it.lb.stats().backends.pool?.server_details.s1?.weight).toBe(1);
  });

  test("where there is no token, nobody changes anything", async () => {
    await using it = await api({ stats: { port: 0 } });
    for (const [method, path, body] of CHANGES) {
      expect(await it.json(method, path, body), `${method} ${path}`).toMatchObject([
        403,
        { code: "FORBIDDEN" },
      ]);
    }
  });

  test("beyond loopback a browser is asked for the token, and what its scripts fetch is not", async () => {
    process.env.CONVEY_STATS_TOKEN = TOKEN;
    try {
      await using it = await api({ stats: { port: 0, bind: "0.0.0.0" } });
      const local = { host: "127.0.0.1", port: it.address.port };
      const challenge = async (headers: Record<string, string>) =>
        (await ask(local, "/", { headers })).headers["www-authenticate"];
      expect(await challenge({})).toMatch(/Bearer.*Basic realm=/);
      expect(await challenge({ "sec-fetch-mode": "navigate" })).toMatch(/Basic realm=/);
      expect(await challenge({ "sec-fetch-mode": "cors" })).not.toMatch(/Basic/);
      const basic = (text: string) => ({ authorization: `Basic ${Buffer.from(text).toString("base64")}` });
      expect((await ask(local, "/", { headers: basic(`operator:${TOKEN}`) })).status).toBe(200);
      expect((await ask(local, "/", { headers: basic(`:${TOKEN}`) })).status).toBe(200);
      for (const wrong of [`${TOKEN}:`, TOKEN, `x:${TOKEN} `, "x:", ""]) {
        expect((await ask(local, "/", { headers: basic(wrong) })).status, wrong).toBe(401);
      }
    } finally {
      delete process.env.CONVEY_STATS_TOKEN;
    }
  });
});
