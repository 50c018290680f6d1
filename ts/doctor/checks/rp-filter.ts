/** Source validation: strict, it drops clients whose way back is another interface. */
import { type Found, ok, setting, warning } from "../finding.ts";
import type { Host } from "../host.ts";
import { type Check, frontends, type Look } from "../look.ts";
import type { Network } from "../network.ts";
import { effective } from "../sysctl.ts";

const STRICT = 1;
const LOOSE = "2";

export const rpFilter: Check = {
  name: "rp_filter",
  async find(look) {
    if (look.config.mode !== "proxy") {
      return [
        ok(
          "source validation does not matter",
          "forwarded packets are taken before the kernel looks at them",
        ),
      ];
    }
    return strict(look.host, look.network, await clientDevices(look));
  },
};

/** Where clients arrive in proxy mode: what holds a listening address. */
async function clientDevices(look: Look): Promise<string[]> {
  const listened = new Set(frontends(look).map(({ listen }) => listen.host));
  const held = (await look.network.addresses()).filter(
    ({ device, address }) =>
      device !== "lo" && !address.includes(":") && (listened.has("0.0.0.0") || listened.has(address)),
  );
  return [...new Set(held.map(({ device }) => device))];
}

/** Judges the devices by which clients from anywhere arrive. */
export async function strict(host: Host, network: Network, devices: readonly string[]): Promise<Found[]> {
  const uplinks = await network.uplinks(4);
  const found = devices.map((device): Found => {
    const { value, keys, evidence } = effective(host, device, "rp_filter");
    if (value !== STRICT || uplinks.includes(device))
      return ok(`${device} takes packets from any client`, evidence, device);
    const way =
      uplinks.length === 0 ? "there is no default route" : `the default route leads by ${uplinks.join(", ")}`;
    return warning({
      subject: device,
      title: `${device} drops clients beyond its own networks (rp_filter)`,
      evidence: `${evidence}; ${way}`,
      consequence: `The kernel drops, without a word, packets that come by ${device} from addresses that no route leads back to by it.`,
      ...setting({ key: keys.own, value: LOOSE }),
    });
  });
  return found;
}
