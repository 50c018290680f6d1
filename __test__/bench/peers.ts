/** Who is measured. */
import { convey, conveyConfig, haproxy, nginxStream, type Relay } from "../support/peers.ts";
import { type Added, fill, parseAdded } from "./added.ts";

export interface Peer {
  name: string;
  /**
   * The command that balances, or undefined: the client talks to the server through plain routing. It gives undefined
   * when it cannot balance like that.
   */
  command: ((relay: Relay) => string[] | undefined) | undefined;
  /** The program it needs. */
  tool?: string;
}

/** The built-in peers and those of the reader, in the order they are visited. */
export function peers(added: string | undefined): Peer[] {
  return [
    { name: "convey", command: convey },
    { name: "haproxy", command: (relay) => haproxy(relay, false), tool: "haproxy" },
    { name: "haproxy-splice", command: (relay) => haproxy(relay, true), tool: "haproxy" },
    { name: "nginx", command: (relay) => nginxStream(relay, "16k"), tool: "nginx" },
    { name: "nginx-256k", command: (relay) => nginxStream(relay, "256k"), tool: "nginx" },
    ...parseAdded(added ?? "").map((peer) => ({ name: peer.name, command: addedCommand(peer) })),
    { name: "direct", command: undefined },
  ];
}

function addedCommand(peer: Added): (relay: Relay) => string[] | undefined {
  return (relay) => {
    const { listen, server, threads, ...more } = relay;
    // Anything else can be said in a configuration file alone.
    if (Object.keys(more).length > 0 && !peer.command.includes("{config}")) return undefined;
    return fill(peer, { listen, server, threads: String(threads), config: conveyConfig(relay) });
  };
}
