/** The lab itself: what the other tests of this folder stand on. */
import { expect, test } from "vitest";
import { succeed } from "../support/processes.ts";
import { needs } from "../support/requirements.ts";
import { type Arms, PacketLab, SERVERS } from "./lab/lab.ts";
import { pings } from "./lab/traffic.ts";

for (const arms of ["one-arm", "two-arm"] as const satisfies readonly Arms[]) {
  test(`a ${arms} lab carries packets between client, balancer and servers, and leaves nothing behind`, async (context) => {
    needs(context, { root: true, tools: ["ip", "sysctl", "socat"] });
    let namespace: string;
    {
      await using lab = await PacketLab.create({ arms });
      namespace = lab.namespace("client");
      for (const family of ["v4", "v6"] as const) {
        expect(await pings(lab, "client", lab.vip(family))).toBe(true);
        for (const place of SERVERS) {
          expect(await pings(lab, "balancer", lab.server(place, family)), place).toBe(true);
          expect(await pings(lab, place, lab.client(family)), place).toBe(true);
        }
      }
      expect(await succeed(["ip", "netns", "list"])).toContain(namespace);
    }
    const id = namespace.replace("-client", "");
    expect(await succeed(["ip", "netns", "list"])).not.toContain(id);
  });
}
