/** Checks of DSR servers on recorded hosts: what iproute2 of the tests' machines cannot set. */
import { expect, test } from "vitest";
import { Network } from "../../../ts/doctor/network.ts";
import { superFrames } from "../../../ts/doctor/server/answers.ts";
import { listener } from "../../../ts/doctor/server/listener.ts";
import type { ServerLook } from "../../../ts/doctor/server/look.ts";
import { type Recording, recordedHost } from "./recorded.ts";

function server(recording: Recording, settings: Partial<ServerLook> = {}): ServerLook {
  const host = recordedHost(recording);
  return {
    host,
    network: new Network(host),
    vip: { family: 4, host: "192.0.2.1", port: 80 },
    protocol: "tcp",
    method: "rewrite",
    report: { server: "10.0.0.11", interfaces: ["eth0"], problems: [] },
    prepare: "convey dsr-server 192.0.2.1:80",
    ...settings,
  };
}

test("super-frames above 64 KB are noticed, and those of Linux's usual size are fine", async () => {
  const links = (size: number) => ({
    commands: {
      "ip -j -d link show": JSON.stringify([
        { ifname: "eth0", mtu: 1500, flags: [], gso_ipv4_max_size: size },
      ]),
    },
  });
  expect(await superFrames.find(server(links(262_144)))).toMatchObject([
    { severity: "notice", subject: "eth0", remedy: "ip link set dev eth0 gso_ipv4_max_size 65536" },
  ]);
  expect(await superFrames.find(server(links(65_536)))).toMatchObject([{ severity: "ok" }]);
});

/** As /proc/net shows 10.0.0.11:80 listening, [::]:443 listening, and a UDP socket at 0.0.0.0:53. */
const files = {
  "/proc/net/tcp": `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0B00000A:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 20583 1 0000000000000000 100 0 0 10 0
`,
  "/proc/net/tcp6": `  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000000000000:01BB 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 20584 1 0000000000000000 100 0 0 10 0
`,
  "/proc/net/udp": `   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  210: 00000000:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 20585 2 0000000000000000 0
`,
};

test.each<[string, Partial<ServerLook>, "ok" | "error"]>([
  ["the server's own address, method rewrite", {}, "ok"],
  ["the server's own address, method l2, whose packets go to the VIP", { method: "l2" }, "error"],
  ["[::], which takes IPv4", { method: "l2", vip: { family: 4, host: "192.0.2.1", port: 443 } }, "ok"],
  ["another protocol", { protocol: "udp" }, "error"],
  ["UDP on every address", { protocol: "udp", vip: { family: 4, host: "192.0.2.1", port: 53 } }, "ok"],
])("a program that listens on %s", async (_, settings, severity) => {
  expect(await listener.find(server({ files }, settings))).toMatchObject([{ severity }]);
});
