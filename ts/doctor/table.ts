/** Every check of a balancer, in the order in which they are told. */
import { arp } from "./checks/arp.ts";
import { bpffs } from "./checks/bpffs.ts";
import { clientSource } from "./checks/client-source.ts";
import { clock } from "./checks/clock.ts";
import { conntrack } from "./checks/conntrack.ts";
import { drivers } from "./checks/drivers.ts";
import { engine } from "./checks/engine.ts";
import { forwarding } from "./checks/forwarding.ts";
import { kernel } from "./checks/kernel.ts";
import { backlog, descriptors } from "./checks/limits.ts";
import { listeners } from "./checks/listeners.ts";
import { memory } from "./checks/memory.ts";
import { mtu } from "./checks/mtu.ts";
import { names } from "./checks/names.ts";
import { namespace } from "./checks/namespace.ts";
import { neighbours } from "./checks/neighbours.ts";
import { offloads } from "./checks/offloads.ts";
import { ports } from "./checks/ports.ts";
import { privileges } from "./checks/privileges.ts";
import { programs } from "./checks/programs.ts";
import { queues } from "./checks/queues.ts";
import { reach } from "./checks/reach.ts";
import { rpFilter } from "./checks/rp-filter.ts";
import { serversReachable } from "./checks/servers.ts";
import { timeWait } from "./checks/time-wait.ts";
import type { Check } from "./look.ts";

export const CHECKS: readonly Check[] = [
  namespace,
  // What the process may do, and what will forward.
  privileges,
  kernel,
  engine,
  bpffs,
  drivers,
  queues,
  offloads,
  programs,
  // The network around it.
  listeners,
  reach,
  arp,
  rpFilter,
  forwarding,
  mtu,
  neighbours,
  names,
  serversReachable,
  clientSource,
  // What runs out.
  ports,
  timeWait,
  descriptors,
  backlog,
  memory,
  conntrack,
  clock,
];
