/** Who is measured. */
import { convey, haproxy, nginxStream, type Relay } from "../support/peers.ts";

export interface Peer {
  name: string;
  /** The command that balances, or undefined: the client talks to the server through plain routing. */
  command: ((relay: Relay) => string[]) | undefined;
}

/** The built-in peers and those of the reader, in the order they are visited. */
export function peers(added: string | undefined): Peer[] {
  return [
    { name: "convey", command: convey },
    { name: "haproxy", command: (relay) => haproxy(relay, false) },
    { name: "haproxy-splice", command: (relay) => haproxy(relay, true) },
    { name: "nginx", command: (relay) => nginxStream(relay, "16k") },
    { name: "nginx-256k", command: (relay) => nginxStream(relay, "256k") },
    ...parseAdded(added ?? ""),
    { name: "direct", command: undefined },
  ];
}

function parseAdded(text: string): Peer[] {
  return text
    .split(",")
    .filter((entry) => entry.trim() !== "")
    .map((entry) => {
      const at = entry.indexOf("=");
      if (at < 1) throw new Error(`CONVEY_BENCH_PEERS: "${entry}" is not name=command`);
      const line = entry.slice(at + 1);
      const command = (relay: Relay) => {
        const filled = line
          .replaceAll("{listen}", relay.listen)
          .replaceAll("{server}", relay.server)
          .replaceAll("{threads}", String(relay.threads));
        return ["sh", "-c", `exec ${filled}`];
      };
      return { name: entry.slice(0, at).trim(), command };
    });
}
