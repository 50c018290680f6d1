/**
 * Convey inside a Node program: two servers, a balancer in front of them, one of them drained while the
 * other goes on, and everything closed at the end.
 */
import { once } from "node:events";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { createBalancer } from "convey";

async function startServer(name: string): Promise<{ server: Server; addr: string }> {
  const server = createServer((_, response) => response.setHeader("connection", "close").end(name));
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return { server, addr: `127.0.0.1:${(server.address() as AddressInfo).port}` };
}

const [one, two] = await Promise.all([startServer("one"), startServer("two")]);

const lb = await createBalancer({
  // Port 0: the kernel chooses; address() tells.
  frontends: { web: { listen_addr: "127.0.0.1:0", backend: "pool" } },
  backends: {
    pool: {
      health_check_interval: 1,
      servers: { s1: { addr: one.addr }, s2: { addr: two.addr, weight: 3 } },
    },
  },
});

const events = (async () => {
  for await (const event of lb.events()) {
    if (event.type === "server") console.log(`${event.server} is ${event.state}: ${event.cause}`);
    if (event.type === "drain") console.log(`drain of ${event.server}: ${event.state}`);
  }
})();

const { host, port } = lb.address("web");
const get = async (): Promise<string> => (await fetch(`http://${host}:${port}/`)).text();

const answers: string[] = [];
for (let i = 0; i < 8; i++) answers.push(await get());
console.log(`weights 1 and 3: ${answers.join(" ")}`);

await lb.drain("pool/s2", { deadlineMs: 5000 });
console.log(`with s2 drained: ${await get()} ${await get()}`);

lb.enable("pool/s2");
const { total_connections, total_bytes_rx } = lb.stats();
console.log(`${total_connections} connections, ${total_bytes_rx > 0 ? "bytes counted" : "no bytes"}`);

await lb.close();
await events;
for (const { server } of [one, two]) server.close();
console.log("closed");
