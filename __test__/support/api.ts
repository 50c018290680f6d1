/** A balancer with a token on loopback, and calls of its API. */
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Balancer, type ConfigInput, createBalancer } from "../../ts/index.ts";
import { type Answer, ask, echoServer, poolConfig, type TestServer } from "./control.ts";

export type Api = AsyncDisposable & {
  lb: Balancer;
  address: { host: string; port: number };
  servers: TestServer[];
  /** With the token; an object is sent as JSON. */
  call: (method: string, path: string, body?: unknown, headers?: Record<string, string>) => Promise<Answer>;
  /** The same, its answer as JSON beside its status. */
  json: (method: string, path: string, body?: unknown) => Promise<[number, Record<string, unknown>]>;
};

export const TOKEN = "t0ken";

/** Servers s1 and s2 of backend "pool" greet and echo. */
export async function api(more: Partial<ConfigInput> = {}): Promise<Api> {
  const servers = [await echoServer("s1"), await echoServer("s2")];
  const directory = await mkdtemp(join(tmpdir(), "convey-api-"));
  const token_file = join(directory, "token");
  await writeFile(token_file, TOKEN, { mode: 0o600 });
  const named = Object.fromEntries(servers.map(({ addr }, i) => [`s${i + 1}`, { addr }]));
  const lb = await createBalancer(poolConfig(named, { stats: { port: 0, token_file }, ...more }));
  const address = lb.statsAddress as { host: string; port: number };
  const call: Api["call"] = async (method, path, body, headers = {}) => {
    const text = body === undefined || typeof body === "string" ? body : JSON.stringify(body);
    return await ask(address, path, {
      method,
      headers: {
        authorization: `Bearer ${TOKEN}`,
        ...(text === undefined
          ? {}
          : { "content-type": "application/json", "content-length": `${Buffer.byteLength(text)}` }),
        ...headers,
      },
      ...(text === undefined ? {} : { body: text }),
    });
  };
  return {
    lb,
    address,
    servers,
    call,
    json: async (...request) => {
      const { status, body } = await call(...request);
      return [status, JSON.parse(body) as Record<string, unknown>];
    },
    [Symbol.asyncDispose]: async () => {
      await lb.close();
      for (const server of servers) await server.close();
      await rm(directory, { recursive: true });
    },
  };
}
