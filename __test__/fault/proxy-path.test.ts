/** The product between the hosts of a lab: bulk with offloads on and off, and a server that is black-holed. */
import { createHash, randomBytes } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, expect, test } from "vitest";
import { pool, startConvey } from "../support/convey.ts";
import { loadgenPath, parseResult, startServer } from "../support/loadgen.ts";
import { folder, nginxFiles } from "../support/peers.ts";
import { start, succeed, until } from "../support/processes.ts";
import { needs } from "../support/requirements.ts";
import { address, Row } from "../support/row.ts";

// Built here, so that a first build is not charged to a test.
beforeAll(() => loadgenPath(), 300_000);

const MIB = 1024 * 1024;
const FRONT = `${address.front}:8080`;

test.for(["on", "off"])(
  "curl and nginx exchange 50 MiB each way unchanged and exactly counted, offloads %s",
  async (offloads, context) => {
    needs(context, { root: true, tools: ["ip", "sysctl", "ethtool", "nginx", "curl"] });
    await using lab = await Row.create({ offloads: offloads === "on" });
    const root = folder("root");
    const [down, up] = [randomBytes(50 * MIB), randomBytes(50 * MIB)];
    writeFileSync(join(root, "down"), down);
    const [source, sink] = [join(folder("curl"), "up"), join(folder("curl"), "down")];
    writeFileSync(source, up);
    await using _nginx = start(lab.at("server", ...nginxFiles(`${address.server}:80`, root)));
    await using product = await startConvey(
      pool({ s1: `${address.server}:80` }, { listen: FRONT, backend: ["health_check_interval = 1"] }),
      lab.at("balancer"),
    );
    await until(
      async () => (await product.stats()).backends.pool?.server_details.s1?.last_check?.ok,
      "nginx to answer",
      10_000,
    );
    const curl = (...args: string[]) =>
      succeed(
        lab.at(
          "client",
          "curl",
          "-sf",
          "--max-time",
          "25",
          "-w",
          "%{size_request} %{size_upload} %{size_header} %{size_download}",
          ...args,
        ),
      );
    const sizes = [
      await curl("-o", sink, `http://${FRONT}/down`),
      await curl("-T", source, "-H", "Expect:", `http://${FRONT}/up`),
    ].map((line) => line.split(" ").map(Number) as [number, number, number, number]);
    expect(sha256(readFileSync(sink))).toBe(sha256(down));
    expect(sha256(readFileSync(join(root, "up")))).toBe(sha256(up));
    const tx = sizes.reduce((sum, [request, upload]) => sum + request + upload, 0);
    const rx = sizes.reduce((sum, [, , header, download]) => sum + header + download, 0);
    await until(async () => (await product.stats()).current_connections === 0, "the connections to end");
    expect((await product.stats()).frontends.web).toMatchObject({
      total_connections: 2,
      bytes_tx: tx,
      bytes_rx: rx,
    });
  },
);

test("a server black-holed mid-flow is bounded by the idle timeout; another server's clients go on", async (context) => {
  needs(context, { root: true, tools: ["ip", "sysctl", "ethtool", "nft", "curl"] });
  await using lab = await Row.create();
  const doomed = await startServer({ prefix: lab.at("server"), listen: `${address.server}:9001` });
  await using _doomed = doomed.process;
  const other = await startServer({ prefix: lab.at("server"), listen: `${address.server}:9002` });
  await using _other = other.process;
  const toml = (listen: string) =>
    [
      pool(
        { s1: doomed.address },
        {
          listen,
          backend: ["idle_timeout_ms = 1500", "connect_timeout_ms = 300", "health_check_interval = 3600"],
        },
      ),
      "[frontends.other]",
      `listen_addr = "${address.front}:8081"`,
      'backend = "other"',
      "[backends.other.servers.s2]",
      `addr = "${other.address}"`,
      "",
    ].join("\n");
  await using product = await startConvey(toml(FRONT), lab.at("balancer"));
  const client = lab.at("client", await loadgenPath());
  await using bulk = start([...client, "bulk", "--connect", FRONT, "--connections", "2", "--duration", "6"]);
  await using requests = start([
    ...[...client, "requests", "--connect", `${address.front}:8081`, "--connections", "8"],
    ...["--rate", "500", "--duration", "5"],
  ]);
  await until(async () => (await product.stats()).total_bytes_rx > 50e6, "bulk to flow", 10_000);
  await lab.sh(
    "server",
    "nft 'add table inet hole; add chain inet hole in { type filter hook input priority 0; }; add rule inet hole in tcp dport 9001 drop'",
  );
  const holedAt = performance.now();
  const web = await until(
    async () => {
      const seen = (await product.stats()).frontends.web;
      return seen?.current_connections === 0 && seen;
    },
    "the black-holed connections to end",
    8000,
  );
  expect(performance.now() - holedAt).toBeLessThan(6000);
  expect(web.reasons).toEqual({ idle_timeout: 2 });
  await requests.exited;
  const result = parseResult(requests.stdout);
  expect(result.failures).toEqual({ connect: 0, reset: 0, closed_early: 0, timeout: 0, malformed: 0 });
  expect(result.requests).toBeGreaterThan(2400);
  await bulk.exited;
  const { failures } = parseResult(bulk.stdout);
  expect(failures.reset + failures.closed_early).toBe(2);
});

function sha256(bytes: Buffer): string {
  return createHash("sha256").update(bytes).digest("hex");
}
