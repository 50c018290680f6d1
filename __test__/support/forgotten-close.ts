/**
 * A program that forgets `close()`: file watch, HTTP server, health checks (the addresses after the file are
 * servers) and an event reader are all alive when its last line has run. Prints the stats address.
 */
import { writeFile } from "node:fs/promises";
import { createBalancer } from "../../ts/index.ts";

const [file, ...addrs] = process.argv.slice(2) as [string, ...string[]];
const servers = addrs.map((addr, i) => `[backends.pool.servers.s${i}]\naddr = "${addr}"\n`).join("");
await writeFile(
  file,
  `[stats]\nport = 0\n[frontends.web]\nlisten_addr = "127.0.0.1:0"\nbackend = "pool"\n` +
    `[backends.pool]\nhealth_check_interval = 1\nhealth_check_timeout_ms = 600000\n${servers}`,
);
const lb = await createBalancer({ configFile: file });
void (async () => {
  for await (const _ of lb.events());
})();
const { host, port } = lb.statsAddress as { host: string; port: number };
const stats = await fetch(`http://${host}:${port}/stats`);
await stats.json();
process.stdout.write("end of program\n");
