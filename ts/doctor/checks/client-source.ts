/** Whether answers come back to a balancer that connects from its clients' addresses: `source = "client"`. */
import { type Found, ok, warning } from "../finding.ts";
import { type Check, type Look, type Server, servers } from "../look.ts";

/** Stand for any client: documentation addresses (RFC 5737, RFC 3849). */
const CLIENT = { 4: "203.0.113.1", 6: "2001:db8::1" } as const;

export const clientSource: Check = {
  name: "client_source",
  modes: ["proxy"],
  async find(look) {
    const asked = servers(look).filter(({ backend }) => look.config.backends[backend]?.source === "client");
    return (await Promise.all(asked.map((server) => judged(look, server)))).flat();
  },
};

async function judged({ network }: Look, { key, address }: Server): Promise<Found[]> {
  const { host, port, family } = address;
  const device = (await network.route(host))?.dev;
  // On this host answers stay here.
  if (device === undefined || device === "lo") return [];
  const client = CLIENT[family];
  const words = [
    client,
    "from",
    host,
    "iif",
    device,
    "ipproto",
    "tcp",
    "sport",
    String(port),
    "dport",
    "40000",
  ];
  const route = await network.routeOf(words);
  const evidence = `ip route get ${words.join(" ")}: ${route === undefined ? "no route" : (route.type ?? "unicast")}`;
  if (route?.type === "local")
    return [ok(`answers of ${key} to clients are taken for this host's`, evidence, key)];
  const ip = family === 4 ? "ip" : "ip -6";
  return [
    warning({
      subject: key,
      title: `answers of ${key} to clients are not taken for this host's`,
      evidence,
      consequence: 'Connections from clients\' addresses (source = "client") are never established.',
      remedy: `${ip} rule add iif ${device} ipproto tcp sport ${port} lookup 100; ${ip} route replace local default dev lo table 100`,
    }),
  ];
}
