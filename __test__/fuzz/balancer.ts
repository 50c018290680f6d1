/** A balancer for a fuzzer: prints its address, takes every change with the token "t0ken", and ends with its input. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Balancer } from "../../ts/control/balancer.ts";

const directory = mkdtempSync(join(tmpdir(), "convey-fuzz-"));
const configFile = join(directory, "config.toml");
writeFileSync(join(directory, "token"), "t0ken", { mode: 0o600 });
writeFileSync(
  configFile,
  `
[frontends.web]
listen_addr = "127.0.0.1:0"
backend = "pool"
[backends.pool]
health_check_interval = 60
[backends.pool.servers]
s1 = { addr = "127.0.0.1:1" }
s2 = { addr = "127.0.0.1:2" }
[stats]
port = 0
token_file = "${directory}/token"
[shutdown]
drain_timeout_ms = 100
`,
);
const balancer = await Balancer.start({ configFile }, { keepAlive: true });
const address = balancer.statsAddress;
process.stdout.write(`http://${address?.host}:${address?.port}\n`);
process.stdin.resume().once("end", async () => {
  await balancer.close();
  rmSync(directory, { recursive: true });
});
