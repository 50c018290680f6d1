/** Health checks in dsr mode that ask servers for the frontends' addresses, as clients do. */
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import type { ServerStats } from "../../ts/index.ts";
import { type Product, runConvey } from "../support/convey.ts";
import { CONVEY } from "../support/peers.ts";
import { type Exit, finish, until } from "../support/processes.ts";
import { lacking } from "../support/requirements.ts";
import { engine } from "./engines.ts";
import { type Family, PacketLab, SERVERS } from "./lab/lab.ts";
import { XDP_TOOLS } from "./lab/other-end.ts";
import { kernelCounter } from "./lab/scene.ts";
import { HTTP, Services, TOOLS } from "./lab/servers.ts";

const missing = lacking({ root: true, tools: [...TOOLS, ...XDP_TOOLS] });
const FAMILIES: readonly Family[] = ["v4", "v6"];
type Server = (typeof SERVERS)[number];

let lab: PacketLab;
let services: Services;
let folder: string;
let product: Product | undefined;

beforeAll(async () => {
  if (missing !== undefined) return;
  lab = await PacketLab.create();
  services = await Services.start(lab);
  folder = await mkdtemp(join(tmpdir(), "convey-dsr-checks-"));
  // Servers may hold this one, so that connections must come from the other.
  await lab.sh("balancer", `ip address change ${lab.vip("v6")}/128 dev front preferred_lft 0`);
});
afterAll(async () => {
  await services?.[Symbol.asyncDispose]();
  await lab?.[Symbol.asyncDispose]();
  if (folder !== undefined) await rm(folder, { recursive: true, force: true });
});
beforeEach((context) => {
  if (missing !== undefined) context.skip(missing);
});
afterEach(async () => {
  await product?.process.stop("SIGTERM");
  product = undefined;
});

interface Settings {
  method?: "l2" | "rewrite";
  check?: "vip" | "address";
  port?: number;
  servers?: Record<string, string>;
  /** Lines of the backend. */
  backend?: readonly string[];
  families?: readonly Family[];
}

/** A frontend and a backend `web_v4`, `web_v6` for each family, checked ten times a second in between states. */
function configuration(settings: Settings): string {
  const { method = "l2", check, port = HTTP, families = FAMILIES } = settings;
  const lines = ['mode = "dsr"', "[dsr]", `method = "${method}"`, "[passthrough]", "workers = 1"];
  lines.push(
    "connection_tracker_capacity = 4096",
    "[stats]",
    "port = 0",
    "[shutdown]",
    "drain_timeout_ms = 0",
  );
  for (const family of families) {
    lines.push(
      `[frontends.web_${family}]`,
      `listen_addr = "${PacketLab.socket(lab.vip(family), port)}"`,
      `backend = "web_${family}"`,
      `[backends.web_${family}]`,
      "health_check_interval = 1",
      "health_check_fast_interval_ms = 100",
      "health_check_timeout_ms = 600",
      "health_check_fall = 2",
      ...(check === undefined ? [] : [`check = "${check}"`]),
      ...(settings.backend ?? []),
    );
    const servers = settings.servers ?? Object.fromEntries(SERVERS.map((s) => [s, lab.server(s, family)]));
    for (const [name, address] of Object.entries(servers)) {
      lines.push(`[backends.web_${family}.servers.${name}]`, `addr = "${PacketLab.socket(address, port)}"`);
    }
  }
  return `${lines.join("\n")}\n`;
}

let files = 0;
async function file(settings: Settings): Promise<string> {
  files += 1;
  const path = join(folder, `${files}.toml`);
  await writeFile(path, configuration(settings), { mode: 0o600 });
  return path;
}

const state = (place: string): string => `CONVEY_STATE_DIR=${join(folder, place)}`;

async function run(settings: Settings): Promise<Product> {
  product = await runConvey(await file(settings), lab.at("balancer", "env", state("balancer")));
  return product;
}

/** `convey dsr-server` on a server, as the balancer's messages tell to run it. */
async function prepare(server: Server, family: Family, ...options: string[]): Promise<void> {
  const own = ["--server", lab.server(server, family), ...options];
  const command = [process.execPath, CONVEY, "dsr-server", PacketLab.socket(lab.vip(family), HTTP), ...own];
  const done = await finish(lab.at(server, "env", state(server), ...command));
  expect(done, done.stderr).toMatchObject({ code: 0 });
}

async function unprepare(server: Server): Promise<void> {
  for (const family of FAMILIES) await prepare(server, family, "--undo");
}

const details = async (family: Family): Promise<Record<string, ServerStats>> =>
  (await product?.stats())?.backends[`web_${family}`]?.server_details ?? {};

/** Waits until the server's state and last check are as told. */
async function becomes(server: string, family: Family, up: boolean, cause: RegExp): Promise<ServerStats> {
  return until(
    async () => {
      const found = (await details(family))[server];
      const fits = found?.up === up && found.last_check?.ok === up && cause.test(found.last_check.cause);
      return fits ? found : undefined;
    },
    `${server} ${up ? "up" : "down"}, ${cause}`,
    20_000,
    () => product?.process.output() ?? "",
  );
}

const unanswered = (server: Server, family: Family): RegExp => {
  const vip = PacketLab.socket(lab.vip(family), HTTP);
  const told = `does not answer for VIP ${vip}: is it up, and the address on its loopback? convey dsr-server ${vip} --method l2 --server ${lab.server(server, family)}`;
  return new RegExp(told.replace(/[[\].?]/g, String.raw`\$&`));
};
const answers = /^answers for VIP /;

describe('C32, method "l2"', () => {
  afterEach(async () => {
    if (missing !== undefined) return;
    for (const server of SERVERS) await unprepare(server);
  });

  test.each(FAMILIES)(
    "a server without the loopback address is down over %s and its cause told, until it is prepared",
    async (family) => {
      for (const server of ["server1", "server2"] as const) await prepare(server, family, "--method", "l2");
      await run({ families: [family] });
      await becomes("server1", family, true, answers);
      await becomes("server2", family, true, answers);
      await becomes("server3", family, false, unanswered("server3", family));
      expect(product?.process.output()).toMatch(
        /server web_v\d\/server3 is down: .*is it up, and the address on its loopback/,
      );

      await prepare("server3", family, "--method", "l2");
      await becomes("server3", family, true, answers);
      const vip = PacketLab.socket(lab.vip(family), HTTP);
      const names = new Set<string>();
      for (let i = 0; i < 60 && names.size < SERVERS.length; i++) {
        names.add(await lab.sh("client", `curl -sS --max-time 5 http://${vip}/name`));
      }
      expect([...names].sort()).toEqual([...SERVERS]);

      await lab.sh("server3", `ip address del ${lab.vip(family)} dev lo`);
      await becomes("server3", family, false, unanswered("server3", family));
    },
  );

  test("no half-open connection stays behind at a server, the process there hears nothing, and the balancer's kernel resets nothing", async () => {
    for (const family of FAMILIES) await prepare("server1", family, "--method", "l2");
    await run({});
    for (const family of FAMILIES) await becomes("server1", family, true, answers);
    const counters = async () => [
      await kernelCounter(lab, "server1", "Tcp", "PassiveOpens"),
      await kernelCounter(lab, "balancer", "Tcp", "OutRsts"),
    ];
    const before = await counters();
    await new Promise((resolve) => setTimeout(resolve, 2500));
    expect(await lab.sh("server1", "ss -Htan state syn-recv")).toBe("");
    expect(await counters()).toEqual(before);
  });

  test("a server on which nothing listens refuses", async () => {
    for (const family of FAMILIES) await prepare("server1", family, "--method", "l2");
    await run({ port: 81 });
    for (const family of FAMILIES) {
      await becomes("server1", family, false, /^refuses connections to VIP .*:81$/);
    }
  });

  test("a server whose answers are lost is down, and up once they arrive", async () => {
    await prepare("server1", "v4", "--method", "l2");
    await run({ families: ["v4"] });
    await becomes("server1", "v4", true, answers);
    await lab.sh(
      "server1",
      "nft 'table ip lost { chain o { type filter hook output priority 0; tcp sport 80 drop; }; }'",
    );
    await becomes("server1", "v4", false, unanswered("server1", "v4"));
    await lab.sh("server1", "nft delete table ip lost");
    await becomes("server1", "v4", true, answers);
  });

  test("a server that forwards what is not its own is not taken for the one that answers in its place", async () => {
    for (const server of ["server1", "server2"] as const) await prepare(server, "v4", "--method", "l2");
    const forward = (on: 0 | 1) => `sysctl -qw net.ipv4.ip_forward=${on} net.ipv4.conf.all.rp_filter=0`;
    await lab.sh("server3", forward(1));
    try {
      await run({ families: ["v4"] });
      await becomes("server1", "v4", true, answers);
      await becomes(
        "server3",
        "v4",
        false,
        /10\.78\.2\.1[12] does in its place, so it passed the packet on; is the address/,
      );
    } finally {
      await lab.sh("server3", forward(0));
    }
  });

  test("a server that is gone is told as such, by the neighbour that is silent", async () => {
    await run({ families: ["v4"], servers: { gone: "10.78.2.77" } });
    await becomes(
      "gone",
      "v4",
      false,
      /^the server cannot be reached: nobody on front answers for 10\.78\.2\.77$/,
    );
  });

  test('with check = "address" an unprepared server is up, and a reload changes what is asked', async () => {
    const running = await run({ families: ["v4"], check: "address" });
    await becomes("server1", "v4", true, /^connected$/);
    running.replace(configuration({ families: ["v4"] }));
    await becomes("server1", "v4", false, unanswered("server1", "v4"));
    running.replace(configuration({ families: ["v4"], check: "address" }));
    await becomes("server1", "v4", true, /^connected$/);
  });

  test("checks go on without CAP_NET_RAW, which is given up after the start, and a start without it is refused", async (context) => {
    if (engine() === "af_xdp")
      context.skip("AF_XDP keeps CAP_NET_RAW: an interface that comes gets sockets of its own");
    await prepare("server1", "v4", "--method", "l2");
    const running = await run({ families: ["v4"] });
    expect(running.process.output()).toMatch(/capabilities kept: (?!.*CAP_NET_RAW)/);
    await becomes("server1", "v4", true, answers);
    await running.process.stop("SIGTERM");
    product = undefined;
    const command = [process.execPath, CONVEY, "run", "-c", await file({ families: ["v4"] })];
    const without: Exit & { stderr: string } = await finish(
      lab.at("balancer", "env", state("balancer"), "setpriv", "--bounding-set=-net_raw", ...command),
    );
    expect(without.code).toBe(1);
    expect(without.stderr).toMatch(/dsr mode needs CAP_NET_RAW/);
  });

  test("a balancer with no address of its own asks servers at theirs, and says what is not noticed", async () => {
    await lab.sh("balancer", "ip address del 10.78.2.1/24 dev front; ip route add 10.78.2.0/24 dev front");
    try {
      const running = await run({ families: ["v4"] });
      await running.process.waitFor(
        /servers of backend web_v4 are checked at their own addresses, because front has no address but those/,
        20_000,
      );
    } finally {
      const back =
        "ip route del 10.78.2.0/24 dev front; ip address add 10.78.2.1/24 dev front; ip route replace default via 10.78.2.254";
      await lab.sh("balancer", back);
    }
  });
});

describe("checks that ask for more than a connection", () => {
  afterEach(async () => {
    if (missing !== undefined) return;
    for (const server of SERVERS) await unprepare(server);
  });

  test.each(FAMILIES)(
    "over %s a server has to answer for the VIP first, and then to the request at its own address",
    async (family) => {
      for (const server of ["server1", "server2"] as const) await prepare(server, family, "--method", "l2");
      const backend = (path: string) => ['health_check.type = "http"', `health_check.path = "${path}"`];
      const running = await run({ families: [family], backend: backend("/name") });
      const asked = await becomes("server1", family, true, /^status 200$/);
      expect(asked.last_check).toMatchObject({ answer: "HTTP/1.1 200 OK" });
      await becomes("server3", family, false, unanswered("server3", family));
      running.replace(configuration({ families: [family], backend: backend("/none") }));
      await becomes("server1", family, false, /^unexpected status 404$/);
      expect((await details(family)).server1?.last_check?.answer).toBe("HTTP/1.1 404 Not Found");
    },
  );

  test("another port is asked for at the VIP, too", async () => {
    await prepare("server1", "v4", "--method", "l2");
    const running = await run({ families: ["v4"], backend: ["health_check.port = 81"] });
    await becomes("server1", "v4", false, /^refuses connections to VIP .*:81$/);
    running.replace(configuration({ families: ["v4"], backend: [`health_check.port = ${HTTP}`] }));
    await becomes("server1", "v4", true, answers);
  });
});

describe('C32, method "rewrite"', () => {
  afterEach(async () => {
    if (missing !== undefined) return;
    for (const server of SERVERS) await unprepare(server);
  });

  test.each(FAMILIES)(
    'with check = "vip" a server whose answers do not bear the VIP is down over %s, until it is prepared',
    async (family) => {
      await prepare("server1", family);
      await run({ method: "rewrite", check: "vip", families: [family] });
      await becomes("server1", family, true, answers);
      const own = PacketLab.socket(lab.server("server2", family), HTTP);
      const elsewhere = new RegExp(
        `answers from ${own.replace(/[[\].]/g, String.raw`\$&`)} instead of VIP .* convey dsr-server`,
      );
      await becomes("server2", family, false, elsewhere);
      await prepare("server2", family);
      await becomes("server2", family, true, answers);
      const balancer = lab.balancer(family)[0] ?? "";
      await prepare("server2", family, "--balancer", balancer);
      await becomes("server2", family, false, elsewhere);
    },
  );

  test("a thousand servers are asked every second, and all are down once their answers bear another address", async () => {
    const address = (n: number) => `10.79.${Math.floor(n / 250)}.${(n % 250) + 1}`;
    const servers = Object.fromEntries(Array.from({ length: 1000 }, (_, n) => [`s${n}`, address(n)]));
    await lab.sh("balancer", `ip route add 10.79.0.0/16 via ${lab.server("server1")}`);
    const answer = `ip saddr 10.79.0.0/16 tcp sport ${HTTP} ip saddr set ${lab.vip()}`;
    await lab.sh(
      "server1",
      `ip route add local 10.79.0.0/16 dev lo
       nft 'table ip as_vip { chain out { type filter hook postrouting priority 0; ${answer}; }; }'`,
    );
    try {
      await run({ method: "rewrite", check: "vip", families: ["v4"], servers });
      const count = async (is: (server: ServerStats) => boolean) =>
        Object.values(await details("v4")).filter(is).length;
      await until(
        async () => (await count((s) => s.up && s.last_check?.ok === true)) === 1000,
        "all up",
        60_000,
      );
      await lab.sh("server1", "nft delete table ip as_vip");
      await until(async () => (await count((s) => !s.up)) === 1000, "all down", 60_000);
    } finally {
      await lab.sh("server1", "ip route del local 10.79.0.0/16 dev lo; nft delete table ip as_vip || true");
      await lab.sh("balancer", "ip route del 10.79.0.0/16");
    }
  }, 180_000);

  test("what is not noticed by default is a warning of the configuration", async () => {
    const told = await finish(
      lab.at(
        "balancer",
        process.execPath,
        CONVEY,
        "validate",
        await file({ method: "rewrite", families: ["v4"] }),
      ),
    );
    expect(told.code).toBe(0);
    expect(told.stderr).toMatch(/backends\.web_v4: has health checks that ask its servers' own addresses/);
  });
});
