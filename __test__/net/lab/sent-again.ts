/** Whether packets are lost on the way, as the TCP of clients and servers tells. */
import { until } from "../../support/processes.ts";
import { type PacketLab, SERVERS } from "./lab.ts";

const ENDS = ["client", ...SERVERS] as const;
type End = (typeof ENDS)[number];

/** Beside the segments sent again: why they were, and which of them the other side had already (TCPDSACKRecv). */
const WHY = ["TCPSynRetrans", "TCPTimeouts", "TCPSpuriousRTOs", "TCPDSACKRecv", "TCPLostRetransmit"] as const;

/** Counters of one end by name. */
export type Counts = Record<string, number>;

/**
 * Has clients and servers send again what is lost, and nothing else, while `work` is done. They would otherwise do so
 * after milliseconds (a tail loss probe) or after 200 ms without an answer, and a busy machine is slower than that. What is
 * lost is sent again after three seconds, and whoever waits for an answer waits for that. IPv4 only.
 */
export async function patiently(lab: PacketLab, work: () => Promise<void>): Promise<void> {
  const set = async (probes: number, least: string) => {
    for (const place of ENDS) {
      const [route = ""] = (await lab.sh(place, "ip route show default")).trim().split("\n");
      const plain = route.replace(/ rto_min lock \S+/, "");
      await lab.sh(
        place,
        `sysctl -qw net.ipv4.tcp_early_retrans=${probes}; ip route replace ${plain} ${least}`,
      );
    }
  };
  await set(0, "rto_min 3s");
  try {
    await work();
  } finally {
    await set(3, "");
  }
}

/** Watches from now on. Returns what tells who has sent segments again since, and why: `{}` when none was lost. */
export async function watchSentAgain(lab: PacketLab): Promise<() => Promise<Partial<Record<End, Counts>>>> {
  const before = await counts(lab);
  return async () => {
    await acknowledged(lab);
    const after = await counts(lab);
    const grown = ENDS.map((place) => [place, difference(before[place], after[place])] as const);
    return Object.fromEntries(grown.filter(([, { RetransSegs = 0 }]) => RetransSegs > 0));
  };
}

function difference(before: Counts = {}, after: Counts = {}): Counts {
  const grown = Object.entries(after).map(([name, n]) => [name, n - (before[name] ?? 0)] as const);
  return Object.fromEntries(grown.filter(([, n]) => n > 0));
}

/** A FIN that is lost would be sent again later than anybody looks. */
async function acknowledged(lab: PacketLab): Promise<void> {
  for (const place of ENDS) {
    let waiting = "";
    await until(
      async () => {
        waiting = await lab.sh(place, "ss -Htn state fin-wait-1 state last-ack state closing");
        return waiting === "";
      },
      `acknowledgement of every end of a connection at ${place}`,
      20_000,
      () => waiting,
    );
  }
}

async function counts(lab: PacketLab): Promise<Partial<Record<End, Counts>>> {
  const each = ENDS.map(async (place) => {
    const lines = (await lab.sh(place, "cat /proc/net/snmp /proc/net/netstat")).trim().split("\n");
    const all = new Map<string, number>();
    for (let i = 0; i + 1 < lines.length; i += 2) {
      const [names, values] = [lines[i]?.split(" ") ?? [], lines[i + 1]?.split(" ") ?? []];
      if (/^Tcp(Ext)?:$/.test(names[0] ?? ""))
        names.forEach((name, n) => void all.set(name, Number(values[n])));
    }
    const chosen = ["RetransSegs", ...WHY].map((name) => [name, all.get(name) ?? 0] as const);
    return [place, Object.fromEntries(chosen)] as const;
  });
  return Object.fromEntries(await Promise.all(each));
}
