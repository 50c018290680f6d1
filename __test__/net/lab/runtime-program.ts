/** A program on the balancer's host that changes its servers while it runs; each line it prints is what came of a step. */
import { once } from "node:events";
import { createInterface } from "node:readline";
import { type ConfigInput, createBalancer } from "../../../ts/index.ts";

const [vip = "", method = "", ...servers] = process.argv.slice(2);
const named = (addresses: readonly string[]) =>
  Object.fromEntries(addresses.map((address) => [address, { addr: `${address}:80` }]));
const config = (addresses: readonly string[]): ConfigInput => ({
  mode: method === "passthrough" ? "passthrough" : "dsr",
  engine: (process.env.CONVEY_ENGINE ?? "auto") as "auto",
  frontends: { web: { listen_addr: `${vip}:80`, backend: "app" } },
  backends: { app: { servers: named(addresses), check: method === "passthrough" ? undefined : "address" } },
  ...(method === "passthrough" ? {} : { dsr: { connection_tracking: "minimal" as const } }),
});

const say = (what: unknown): void => console.log(JSON.stringify(what));
const lines = createInterface({ input: process.stdin });
const next = () => once(lines, "line");

const [last = "", ...first] = [...servers].reverse();
const stop = new AbortController();
process.once("SIGTERM", () => stop.abort());
await using lb = await createBalancer(config(first), { keepAlive: true, signal: stop.signal });
void lb.closed.then(() => lines.close());
say("serving");
await next();
const plan = await lb.plan(config(servers));
const added = await lb.addServer("app", { name: last, addr: `${last}:80` });
say({ plan, added });
await next();
const limited =
  method === "passthrough"
    ? undefined
    : await lb
        .addServer("app", { name: "limited", addr: "10.0.0.99:80", max_connections: 5 })
        .catch(({ code, field }: { code: string; field: string }) => ({ code, field }));
const other = await lb
  .addServer("app", { name: "six", addr: "[2001:db8::9]:80" })
  .catch(({ code, field }: { code: string; field: string }) => ({ code, field }));
const without = await lb.plan(config([...first.slice(1), last]));
const removed = await lb.removeServer(`app/${first[0]}`);
say({ limited, other, without, removed });
await next();
say({ left: await lb.setServers("app", []), stats: lb.stats().backends.app?.server_details });
