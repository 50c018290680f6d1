/** What cards do to packets before the engine sees them, and after. */
import { type Found, NotChecked, notice, ok, warning } from "../finding.ts";
import type { Host } from "../host.ts";
import { type Check, engineTaken, PACKET_MODES } from "../look.ts";

export type Features = Map<string, { active: boolean; fixed: boolean }>;

export const offloads: Check = {
  name: "offloads",
  modes: PACKET_MODES,
  async find(look) {
    const taken = engineTaken(look);
    const found: Found[] = [];
    for (const { name, kind, lro } of look.report?.links ?? []) {
      const features = await offloadsOf(look.host, name);
      const bad = [
        ...receive(name, features, lro, look.running !== undefined, kind === ""),
        ...checksum(name, features, taken),
      ];
      const evidence = `ethtool -k ${name}: ${shown(features, "large-receive-offload", "generic-receive-offload", "tx-checksumming")}`;
      found.push(...(bad.length > 0 ? bad : [ok(`offloads of ${name} suit forwarding`, evidence, name)]));
    }
    return found;
  },
};

/** What `ethtool -k` tells of a device. */
export async function offloadsOf(host: Host, device: string): Promise<Features> {
  const text = await host.run(["ethtool", "-k", device]);
  if (text === undefined) throw new NotChecked(`a device that ethtool knows (${device})`);
  const lines = [...text.matchAll(/^\s*([\w-]+): (on|off)( \[fixed\])?/gm)];
  return new Map(
    lines.map(([, name = "", state, fixed]) => [
      name,
      { active: state === "on", fixed: fixed !== undefined },
    ]),
  );
}

export function shown(features: Features, ...names: string[]): string {
  return names.map((name) => `${name} ${features.get(name)?.active ? "on" : "off"}`).join(", ");
}

function receive(
  name: string,
  features: Features,
  lro: boolean | undefined,
  runs: boolean,
  isCard: boolean,
): Found[] {
  const isOn = lro ?? features.get("large-receive-offload")?.active ?? false;
  if (isOn) {
    return [
      warning({
        subject: name,
        title: `${name} joins packets so that they cannot be forwarded (LRO)`,
        evidence: `ethtool -k ${name}: large-receive-offload on`,
        consequence: runs
          ? "Somebody switched it on again after the start: joined packets are lost."
          : "A start switches it off and the end on again; until then nothing is wrong.",
        remedy: `ethtool -K ${name} lro off`,
      }),
    ];
  }
  const gro = features.get("generic-receive-offload");
  // Virtual links hand super-frames over as they were sent.
  if (gro === undefined || gro.active || gro.fixed || !isCard) return [];
  return [
    notice({
      subject: name,
      title: `${name} does not put packets together (GRO is off)`,
      evidence: `ethtool -k ${name}: generic-receive-offload off`,
      consequence: "Bulk transfers cost several times as much, each packet being forwarded by itself.",
      remedy: `ethtool -K ${name} gro on`,
    }),
  ];
}

/** Engines that see super-frames leave the checksum to the card that sends them. */
function checksum(name: string, features: Features, engine: string): Found[] {
  const tx = features.get("tx-checksumming");
  if (tx === undefined || tx.active || tx.fixed || ["xdp", "af_xdp"].includes(engine)) return [];
  return [
    notice({
      subject: name,
      title: `${name} leaves checksums to the processor`,
      evidence: `ethtool -k ${name}: tx-checksumming off`,
      consequence: "Super-frames are taken apart and summed up in software, which makes bulk transfers slow.",
      remedy: `ethtool -K ${name} tx on`,
    }),
  ];
}
