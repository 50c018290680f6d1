/** `GET /api/v1/live` over real connections: how long a stream lasts, how many there may be, when it ends. */
import { afterEach, describe, expect, test } from "vitest";
import { type Balancer, createBalancer } from "../../../ts/index.ts";
import { ask, echoServer, poolConfig, type TestServer } from "../../support/control.ts";

let lb: Balancer | undefined;
let server: TestServer | undefined;

afterEach(async () => {
  await lb?.close();
  await server?.close();
  lb = undefined;
});

async function start(): Promise<{ host: string; port: number }> {
  server = await echoServer("one");
  lb = await createBalancer(poolConfig({ one: { addr: server.addr } }, { stats: { port: 0 } }));
  return lb.statsAddress as { host: string; port: number };
}

/** Names of the events of a stream, until it ends or `enough` says so. */
async function events(
  { host, port }: { host: string; port: number },
  enough: (names: string[]) => boolean,
): Promise<string[]> {
  const response = await fetch(`http://${host}:${port}/api/v1/live`);
  expect(response.headers.get("content-type")).toBe("text/event-stream");
  const names: string[] = [];
  let text = "";
  for await (const bytes of response.body as unknown as AsyncIterable<Uint8Array>) {
    text += new TextDecoder().decode(bytes);
    for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
      names.push(/^event: (.*)$/m.exec(text.slice(0, end))?.[1] ?? "");
      text = text.slice(end + 2);
    }
    if (enough(names)) break;
  }
  return names;
}

describe("live frames", () => {
  test("go on beyond the idle timeout of connections, though nothing happens", async () => {
    const begun = performance.now();
    const names = await events(await start(), () => performance.now() - begun > 33_000);
    expect(names[0]).toBe("full");
    expect(names.filter((name) => name === "delta").length).toBeGreaterThan(25);
  }, 60_000);

  test("end with the balancer, at once", async () => {
    const address = await start();
    const begun = performance.now();
    const ended = events(address, () => false);
    await new Promise((resolve) => setTimeout(resolve, 1500));
    await lb?.close();
    expect((await ended)[0]).toBe("full");
    expect(performance.now() - begun).toBeLessThan(10_000);
  });

  test("are for 32 at once: the next is told to come again, and whoever goes makes room", async () => {
    const address = await start();
    const url = `http://${address.host}:${address.port}/api/v1/live`;
    const readers = Array.from({ length: 32 }, () => new AbortController());
    await Promise.all(readers.map(({ signal }) => fetch(url, { signal })));
    const refused = await ask(address, "/api/v1/live");
    expect([refused.status, refused.headers["retry-after"]]).toEqual([503, "2"]);
    expect((await ask(address, "/healthz")).status).toBe(200);
    readers[0]?.abort();
    await expect
      .poll(async () => (await fetch(url, { method: "GET" })).status, { timeout: 10_000 })
      .toBe(200);
    for (const reader of readers) reader.abort();
  });

  test("a server that does not exist has no history, one that does has its latest changes", async () => {
    const address = await start();
    expect((await ask(address, "/api/v1/live/servers/pool/none")).status).toBe(404);
    const answer = await ask(address, "/api/v1/live/servers/pool/one");
    expect(JSON.parse(answer.body)).toMatchObject({ step: 15, changes: [{ state: "up" }] });
  });
});
