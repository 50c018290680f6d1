/** Whether the names of servers have addresses, by the DNS servers that the balancer asks. */
import { hostPort } from "../../config/address.ts";
import { formatServerAddress } from "../../config/server-address.ts";
import { error, type Found, ok } from "../finding.ts";
import type { Check, Look } from "../look.ts";
import { askedOf, type NamedServer, namedServers } from "../names.ts";

/** Addresses told before "and n more". */
const MOST_TOLD = 8;

export const names: Check = {
  name: "names",
  async find(look) {
    return (await namedServers(look)).map((server) => told(look, server));
  },
};

function told({ config }: Look, { key, name, answered }: NamedServer): Found {
  const { addresses, cause } = answered;
  const [host, by] = [name.host, askedOf(config.resolver)];
  if (addresses.length > 0) {
    const some = addresses.slice(0, MOST_TOLD).map(hostPort).join(", ");
    const rest = addresses.length > MOST_TOLD ? ` and ${addresses.length - MOST_TOLD} more` : "";
    return ok(`${key}: ${host} resolves`, `${some}${rest}, asked of ${by}`, key);
  }
  return error({
    subject: key,
    title: `${key}: ${host} does not resolve`,
    evidence: `${cause === "" ? "no address that a server can have" : cause}, asked of ${by}`,
    consequence:
      "A start has no server by this name until it resolves; one that runs keeps the last addresses as resolver.hold_ms says.",
    remedy: `see what DNS says (getent ahosts ${host}), set resolver.servers to DNS servers that know the name, or write an address instead of ${formatServerAddress(name)}`,
  });
}
