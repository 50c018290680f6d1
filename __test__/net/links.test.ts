/** Where packets come from and go to: interfaces, addresses and routes of the balancer that come, go and differ. */
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { Product } from "../support/convey.ts";
import { CONVEY } from "../support/peers.ts";
import { finish, succeed, until } from "../support/processes.ts";
import type { PacketLab } from "./lab/lab.ts";
import { otherEnd } from "./lab/other-end.ts";
import { type Scene, stage } from "./lab/scene.ts";
import { HTTP } from "./lab/servers.ts";

let scene: Scene;
let lab: PacketLab;
let product: Product | undefined;

afterEach(async () => {
  await product?.[Symbol.asyncDispose]();
  product = undefined;
});

function stand(method: "passthrough" | "l2"): void {
  const stands = stage(method, "one-arm");
  beforeEach(() => {
    const standing = stands.scene();
    if (standing === undefined) return;
    scene = standing;
    lab = scene.lab;
  });
}

/** A third network of the balancer, 10.79.0.1/24, with a client at .2 in a namespace of its own. */
class Third implements AsyncDisposable {
  readonly #name: string;

  private constructor(name: string) {
    this.#name = name;
  }

  static async create(): Promise<Third> {
    const name = lab.namespace("client").replace("client", "third");
    const third = new Third(name);
    const balancer = lab.namespace("balancer");
    const lines = [
      `ip netns add ${name}`,
      `ip -n ${name} link set lo up`,
      `ip -n ${balancer} link add third type veth peer name third netns ${name}`,
      `ip -n ${balancer} address add 10.79.0.1/24 dev third`,
      `ip -n ${balancer} link set third up`,
      `ip -n ${name} address add 10.79.0.2/24 dev third`,
      `ip -n ${name} link set third up`,
      ...otherEnd(name, "third"),
      `ip -n ${name} route add default via 10.79.0.1`,
    ];
    await succeed(["sh", "-ec", lines.join("\n")]);
    return third;
  }

  /** Exit code of curl. */
  async get(url: string): Promise<number | null> {
    const { code } = await finish([
      "ip",
      "netns",
      "exec",
      this.#name,
      "curl",
      "-s",
      "-m",
      "2",
      "-o",
      "/dev/null",
      url,
    ]);
    return code;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await finish(["ip", "netns", "del", this.#name]);
  }
}

const run = (toml: string): Promise<Product> => scene.run(toml);
const file = (toml: string): Promise<string> => scene.file(toml);

/** One frontend over the lab's HTTP servers, or others. */
function small(options: {
  mode?: string;
  listen: string;
  servers?: readonly string[];
  top?: string;
  dsr?: string;
}) {
  const servers = options.servers ?? (["server1", "server2"] as const).map((s) => `${lab.server(s)}:${HTTP}`);
  return [
    `mode = "${options.mode ?? "passthrough"}"`,
    options.top ?? "",
    "[passthrough]",
    "connection_tracker_capacity = 4096",
    ...(options.dsr === undefined ? [] : ["[dsr]", `method = "${options.dsr}"`]),
    "[stats]",
    "port = 7079",
    "[frontends.web]",
    `listen_addr = "${options.listen}"`,
    'backend = "web"',
    "[backends.web]",
    "health_check_interval = 1",
    ...servers.map((addr, i) => `[backends.web.servers.s${i}]\naddr = "${addr}"`),
    "",
  ].join("\n");
}

async function get(url: string): Promise<number | null> {
  return (await finish(lab.at("client", "curl", "-s", "-m", "2", "-o", "/dev/null", url))).code;
}

/** `convey` in the balancer's namespace. */
async function convey(...words: string[]): Promise<{ code: number | null; stdout: string; stderr: string }> {
  return finish([...scene.prefix(), process.execPath, CONVEY, ...words]);
}

describe("a passthrough balancer", () => {
  stand("passthrough");

  test("a client on a third network of the balancer is served, also when the network comes later, and when its interface gets another name", async () => {
    product = await run(small({ listen: `${lab.vip()}:${HTTP}` }));
    for (let round = 0; round < 2; round++) {
      await using third = await Third.create();
      const served = async () => (await third.get(`http://${lab.vip()}:${HTTP}/`)) === 0;
      await until(served, "an answer on the third network", 10_000, () => product?.process.output() ?? "");
      const told = await convey(
        "explain",
        "-c",
        product.file,
        "--running",
        "tcp",
        "10.79.0.2:1234",
        `${lab.vip()}:${HTTP}`,
      );
      expect(told.stdout).toContain("verdict: forward");
      await lab.sh("balancer", "ip link set third down; ip link set third name other; ip link set other up");
      await until(served, "an answer by the other name", 10_000, () => product?.process.output() ?? "");
    }
  });

  test("where interfaces are named, explain tells that a client comes in elsewhere", async () => {
    await using third = await Third.create();
    product = await run(small({ listen: `${lab.vip()}:${HTTP}`, top: 'interfaces = ["front"]' }));
    expect(await get(`http://${lab.vip()}:${HTTP}/`)).toBe(0);
    expect(await third.get(`http://${lab.vip()}:${HTTP}/`)).not.toBe(0);
    const told = await convey(
      "explain",
      "-c",
      product.file,
      "--running",
      "tcp",
      "10.79.0.2:1234",
      `${lab.vip()}:${HTTP}`,
    );
    expect(told.stdout).toContain("come in by interface third, which is not listened on");
    const local = await convey(
      "explain",
      "-c",
      product.file,
      "--running",
      "tcp",
      `${lab.balancer("v4")[0]}:1234`,
      `${lab.vip()}:${HTTP}`,
    );
    expect(local.stdout).toContain("is an address of this host");
  });

  test("interfaces that are not there are refused at the start, and at a reload the former ones stay", async () => {
    const absent = await file(small({ listen: `${lab.vip()}:${HTTP}`, top: 'interfaces = ["absent"]' }));
    const refused = await convey("-c", absent);
    expect(refused.code).toBe(1);
    expect(refused.stderr).toContain("none of absent is an Ethernet interface that is up");
    product = await run(small({ listen: `${lab.vip()}:${HTTP}` }));
    product.replace(small({ listen: `${lab.vip()}:${HTTP}`, top: 'interfaces = ["absent"]' }));
    await product.process.waitFor(/none of absent is an Ethernet interface/);
    expect(await get(`http://${lab.vip()}:${HTTP}/`)).toBe(0);
  });

  test('":80" follows an address that comes and goes, without a reload', async () => {
    product = await run(small({ listen: `:${HTTP}` }));
    const moved = "10.78.2.177";
    expect(await get(`http://${moved}:${HTTP}/`)).not.toBe(0);
    await lab.sh("balancer", `ip address add ${moved}/32 dev front`);
    try {
      await until(
        async () => (await get(`http://${moved}:${HTTP}/`)) === 0,
        "an answer on the new address",
        10_000,
        () => product?.process.output() ?? "",
      );
    } finally {
      await lab.sh("balancer", `ip address del ${moved}/32 dev front`);
    }
    const told = async () =>
      (
        await convey(
          "explain",
          "-c",
          product?.file ?? "",
          "--running",
          "tcp",
          `${lab.client()}:1234`,
          `${moved}:${HTTP}`,
        )
      ).stdout;
    // The connection made above is remembered for a while, and the address with it.
    await until(
      async () => /no longer listens there|no frontend listens/.test(await told()),
      "the end of the address",
    );
    expect(await get(`http://${lab.vip()}:${HTTP}/`)).toBe(0);
  });

  test("answers leave by the uplink that a rule names for the VIP", async () => {
    // Without the rule they would go nowhere.
    const lines = [
      "ip route del default",
      "ip route add blackhole default",
      "ip route add default via 10.78.2.254 table 100",
      `ip rule add from ${lab.vip()} lookup 100 priority 1000`,
    ];
    await lab.sh("balancer", lines.join("\n"));
    try {
      product = await run(small({ listen: `${lab.vip()}:${HTTP}` }));
      expect(await get(`http://${lab.vip()}:${HTTP}/`)).toBe(0);
      await lab.sh("balancer", "ip rule del priority 1000");
      const lost = async () => ((await product?.stats())?.packets?.dropped.route_rejected ?? 0) > 0;
      await until(
        async () => (await get(`http://${lab.vip()}:${HTTP}/`)) !== 0 && lost(),
        "the blackhole is obeyed",
      );
      await lab.sh(
        "balancer",
        "ip route replace unreachable default metric 0; ip route del blackhole default || true",
      );
    } finally {
      const back =
        "ip route flush type unreachable; ip route flush type blackhole; ip rule del priority 1000 2>/dev/null; ip route flush table 100 2>/dev/null; ip route replace default via 10.78.2.254";
      await lab.sh("balancer", back.replaceAll("; ", " || true; "));
    }
  });

  test("a server on the balancer's own address is refused, by the start and by validate", async () => {
    const own = await file(
      small({ listen: `${lab.vip()}:${HTTP}`, servers: [`${lab.balancer("v4")[0]}:9000`] }),
    );
    const started = await convey("-c", own);
    expect(started.code).toBe(1);
    expect(started.stderr).toContain("is an address of this host");
    const validated = await convey("validate", own);
    expect(validated.code).toBe(1);
    expect(validated.stderr).toMatch(/backends\.web\.servers\.s0\.addr: .*is an address of this host/);
  });

  test("that the balancer itself is no client is told by the start, by validate and by explain", async () => {
    const told = "clients on this host itself are not served in mode passthrough";
    product = await run(small({ listen: `${lab.vip()}:${HTTP}` }));
    expect(product.process.output()).toContain(told);
    expect((await convey("validate", product.file)).stdout).toContain(told);
    const own = `${lab.balancer("v4")[0]}:1234`;
    const explained = await convey("explain", "-c", product.file, "tcp", own, `${lab.vip()}:${HTTP}`);
    expect(explained.stdout).toContain("is an address of this host");
    expect(explained.stdout).toContain("verdict: pass not_vip");
  });

  test("clients are served again when a router's MAC address, a route, an interface or its name has changed", async () => {
    product = await run(small({ listen: `${lab.vip()}:${HTTP}` }));
    const isServed = async () => (await get(`http://${lab.vip()}:${HTTP}/`)) === 0;
    const served = (what: string) => until(isServed, what, 10_000, () => product?.process.output() ?? "");
    const unserved = (what: string) => until(async () => !(await isServed()), what);
    const route = "ip route add default via 10.78.2.254";
    const rename = (from: string, to: string) =>
      lab.sh(
        "balancer",
        `ip link set ${from} down; ip link set ${from} name ${to}; ip link set ${to} up; ${route}`,
      );
    await served("an answer");
    await lab.sh("router", "ip link set front address 02:00:00:00:99:01");
    await served("an answer by the router's new MAC address");
    await lab.sh("balancer", "ip route del default");
    await unserved("no answer without a route");
    await lab.sh("balancer", route);
    await served("an answer by the route that is back");
    await lab.sh("balancer", "ip link set front down");
    await unserved("no answer without a link");
    await lab.sh("balancer", `ip link set front up; ${route}`);
    await served("an answer by the link that is back");
    await rename("front", "other");
    try {
      await served("an answer by the link under another name");
    } finally {
      await rename("other", "front");
    }
    await served("an answer by the link under its first name");
  });

  test("a frontend on an address that nobody holds starts with a warning", async () => {
    product = await run(small({ listen: `10.78.2.188:${HTTP}` }));
    expect(product.process.output()).toContain(
      "10.78.2.188, where a frontend listens, is no address of this host",
    );
  });
});

describe("a dsr balancer", () => {
  stand("l2");

  test('with "l2" a server behind a router is refused, and one that comes to be behind one gets nothing', async () => {
    const l2 = (servers: readonly string[]) =>
      small({ mode: "dsr", dsr: "l2", listen: `${lab.vip()}:${HTTP}`, servers });
    const refused = await convey("-c", await file(l2([`${lab.client()}:${HTTP}`])));
    expect(refused.code).toBe(1);
    expect(refused.stderr).toMatch(/is behind the router 10\.78\.2\.254/);
    product = await run(l2([`${lab.server("server1")}:${HTTP}`]));
    expect(await get(`http://${lab.vip()}:${HTTP}/`)).toBe(0);
    await lab.sh("balancer", `ip route add ${lab.server("server1")}/32 via 10.78.2.254`);
    try {
      const dropped = async () => ((await product?.stats())?.packets?.dropped.server_not_on_link ?? 0) > 0;
      await until(
        async () => (await get(`http://${lab.vip()}:${HTTP}/`)) !== 0 && dropped(),
        "packets are dropped",
      );
    } finally {
      await lab.sh("balancer", `ip route del ${lab.server("server1")}/32`);
    }
  });

  test('that a server with "rewrite" is no client of its own is told by validate and by explain', async () => {
    const path = await file(small({ mode: "dsr", dsr: "rewrite", listen: `${lab.vip()}:${HTTP}` }));
    expect((await convey("validate", path)).stdout).toContain("a server cannot be its own client");
    const verdicts = new Set<string | undefined>();
    for (let port = 40_000; port < 40_016; port++) {
      const from = `${lab.server("server1")}:${port}`;
      const { stdout } = await convey("explain", "-c", path, "tcp", from, `${lab.vip()}:${HTTP}`);
      verdicts.add(/verdict: (.*)/.exec(stdout)?.[1]);
    }
    expect(verdicts).toEqual(new Set(["forward", "refuse server_is_client"]));
  });

  test("one server port behind two addresses is told with rewrite, and with l2 a balancer without an own address", async () => {
    const two = small({ mode: "dsr", dsr: "rewrite", listen: `:${HTTP}` });
    const datagrams = [
      "[frontends.udp]",
      `listen_addr = ":${HTTP}"`,
      'protocol = "udp"',
      'backend = "web"',
      "",
    ];
    const told = await convey("validate", await file(two + datagrams.join("\n")));
    const lines = told.stderr.match(/Server \S+ is to answer for .*/g) ?? [];
    expect(lines[0]).toMatch(/with method "rewrite" a server answers from one address/);
    expect(lines, "a server is told once, whatever protocols it serves").toEqual([...new Set(lines)]);
    await lab.sh("balancer", "ip address del 10.78.2.1/24 dev front; ip route add 10.78.2.0/24 dev front");
    try {
      const only = small({ mode: "dsr", dsr: "l2", listen: `${lab.vip()}:${HTTP}` });
      const warned = await convey("validate", await file(only));
      expect(warned.stderr).toMatch(/front has no address but those of frontends/);
    } finally {
      const back =
        "ip route del 10.78.2.0/24 dev front; ip address add 10.78.2.1/24 dev front; ip route replace default via 10.78.2.254";
      await lab.sh("balancer", back);
    }
  });
});
