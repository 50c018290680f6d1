/** Whether the kernel's routes may be asked for the way of answers to clients: kernel engines in passthrough mode. */
import { type Found, ok, setting, warning } from "../finding.ts";
import { type Check, engineTaken, frontends, isKernelEngine, type Look, servers } from "../look.ts";
import { interfaceKey, shown, sysctl } from "../sysctl.ts";

export const forwarding: Check = {
  name: "forwarding",
  modes: ["passthrough"],
  async find(look) {
    if (!isKernelEngine(engineTaken(look))) {
      return [ok("forwarding by the kernel is not needed", "user space forwards")];
    }
    const found: Found[] = [];
    for (const family of [4, 6] as const) {
      if (!frontends(look).some(({ listen }) => listen.family === family)) continue;
      for (const device of await serverDevices(look, family)) found.push(judged(look, family, device));
    }
    return found;
  },
};

async function serverDevices(look: Look, family: 4 | 6): Promise<string[]> {
  const routes = servers(look)
    .filter(({ address }) => address.family === family)
    .map(({ address }) => look.network.route(address.host));
  const devices = (await Promise.all(routes)).flatMap((route) => route?.dev ?? []);
  return [...new Set(devices)].filter((device) => device !== "lo");
}

function judged({ host }: Look, family: 4 | 6, device: string): Found {
  const key = interfaceKey(family, device, "forwarding");
  if (sysctl(host, key) !== "0") {
    return ok(`answers that come by ${device} find their way in the kernel`, shown(host, key), device);
  }
  const { remedy, fix } = setting({ key, value: "1" });
  return warning({
    subject: device,
    title: `the kernel does not tell the way of IPv${family} answers that come by ${device}`,
    evidence: shown(host, key),
    consequence:
      "The first answer to each client goes through user space, some 4,000 clients are remembered, and others are not answered while the process is down.",
    remedy,
    // With IPv6 it also ends the host's listening to router advertisements, by which it may have its own routes.
    fix: family === 4 ? fix : [],
  });
}
