/** The samples of the packet modes, as they are, started by the command line and used by clients. */
import { describe, expect, test } from "vitest";
import { CONVEY } from "../support/peers.ts";
import { finish, until } from "../support/processes.ts";
import { sampleFile } from "../support/samples.ts";
import { engine, isInKernel, takesFramesAway } from "./engines.ts";
import { CLIENT, onSegment, SERVERS, type Segment, VIPS } from "./lab/segment.ts";

describe("samples of the packet modes", () => {
  let segment: Segment;
  onSegment(["tc"], (standing) => {
    segment = standing;
  });

  test("passthrough.toml forwards what comes to any address of the balancer to all four servers", async () => {
    await using product = await segment.run(sampleFile("passthrough"));
    for (const vip of VIPS) {
      const seen = new Set<string>();
      for (let i = 0; i < 40 && seen.size < SERVERS.length; i++) {
        const [server = "", client] = (await segment.ask(vip)).split(" ");
        expect(client, "the server sees the balancer").toBe(vip);
        seen.add(server);
      }
      expect([...seen].sort()).toEqual([...SERVERS]);
    }
    const stats = await product.stats();
    expect(stats).toMatchObject({ mode: "passthrough", engine: engine(), interfaces: ["eth0"] });
    expect(stats.guard).toMatch(isInKernel() ? /^$/ : /^(tcx|nft)$/);
    expect(stats.flows?.capacity).toBe(20_000);
    expect(stats.packets?.forwarded).toBeGreaterThan(40);
    expect(stats.packets?.dropped).toEqual({});
    expect(stats.packets?.noted.flow_begun).toBe(stats.total_connections);
    const looked = Object.values(stats.packets?.nat_port_probes ?? {});
    expect(
      looked.reduce((sum, n) => sum + n, 0),
      "ports of all flows",
    ).toBe(stats.total_connections);
    if (stats.guard === "tcx") {
      const { to_vip = 0, from_server = 0 } = stats.packets?.guard ?? {};
      // Where frames are taken away from the kernel nothing is left for the guard.
      const least = takesFramesAway() ? 0 : 21;
      expect(to_vip).toBeGreaterThanOrEqual(least);
      expect(from_server).toBeGreaterThanOrEqual(least);
    } else {
      expect(stats.packets).not.toHaveProperty("guard");
    }
    expect(stats.total_bytes_rx).toBeGreaterThan(0);
    expect(stats).not.toHaveProperty("return_path_visible");
  });

  test("an address the balancer gains is served after a reload, and one it lost is not", async () => {
    await using product = await segment.run(sampleFile("passthrough"));
    const [first, second] = VIPS;
    await segment.sh("balancer", "ip address add 10.0.0.4/24 dev eth0");
    await segment.sh("balancer", `ip address del ${second}/24 dev eth0`);
    product.process.child.kill("SIGHUP");
    await product.process.waitFor(/reload: /);
    expect(await segment.ask("10.0.0.4")).toMatch(/ 10\.0\.0\.4$/);
    expect(await segment.ask(first)).toMatch(/ 10\.0\.0\.1$/);
  });

  test("dsr.toml sends packets on and the servers answer the client themselves", async () => {
    const [vip] = VIPS;
    for (const server of SERVERS) {
      const prepared = await finish(
        segment.at(
          server,
          process.execPath,
          CONVEY,
          "dsr-server",
          `${vip}:80`,
          ...["--server", server],
          ...VIPS.flatMap((balancer) => ["--balancer", balancer]),
        ),
      );
      expect(prepared).toMatchObject({ code: 0 });
    }
    await using product = await segment.run(sampleFile("dsr"));
    const seen = new Set<string>();
    for (let i = 0; i < 40 && seen.size < SERVERS.length; i++) {
      const [server = "", client] = (await segment.ask(vip)).split(" ");
      expect(client, "the server sees the client").toBe(CLIENT);
      seen.add(server);
    }
    expect([...seen].sort()).toEqual([...SERVERS]);
    const stats = await product.stats();
    expect(stats).toMatchObject({ mode: "dsr", return_path_visible: false, total_bytes_rx: 0 });
    expect(stats.total_bytes_tx).toBeGreaterThan(0);
    await until(
      async () => Object.values((await product.stats()).backends.tcp80_out?.servers ?? {}).every(Boolean),
      "health checks that are answered from the servers' own addresses",
      10_000,
    );
    for (const server of SERVERS) {
      const undone = await finish(
        segment.at(server, process.execPath, CONVEY, "dsr-server", `${vip}:80`, "--undo"),
      );
      expect(undone.stdout).toContain("removed the egress program from eth0");
      expect(await segment.sh(server, "tc qdisc show dev eth0")).not.toContain("clsact");
    }
  });

  test("a host with no address but loopback is told so, by the key that asks for one", async () => {
    await segment.sh("balancer", "ip address flush dev eth0");
    const { code, stderr } = await finish(
      segment.at("balancer", process.execPath, CONVEY, "-c", sampleFile("passthrough")),
    );
    expect(code).toBe(1);
    expect(stderr).toContain("frontends.tcp_80.listen_addr: 0.0.0.0:80 stands for every IPv4 address");
    expect(stderr).toContain("give the host an address");
  });
});
