/** What the process may do: the balancer's own where it runs, else the one that asks. */
import { error, type Found, ok, warning } from "../finding.ts";
import { type Check, frontends, type Look } from "../look.ts";
import { sysctl } from "../sysctl.ts";

const BITS = { CAP_NET_BIND_SERVICE: 10n, CAP_NET_ADMIN: 12n, CAP_NET_RAW: 13n, CAP_BPF: 39n } as const;
type Capability = keyof typeof BITS;
/** Which includes CAP_BPF, as before Linux 5.8. */
const SYS_ADMIN = 21n;

export const privileges: Check = {
  name: "privileges",
  find(look) {
    const own = look.running?.pid === undefined;
    const file = own ? "/proc/self/status" : `/proc/${look.running?.pid}/status`;
    const status = look.host.read(file) ?? "";
    const effective = BigInt(`0x${/^CapEff:\s*(\w+)/m.exec(status)?.[1] ?? "0"}`);
    const has = (bit: bigint): boolean => ((effective >> bit) & 1n) === 1n;
    // A balancer at work has given up what it does not need any more.
    const missing = (own ? needed(look) : kept(look)).filter(
      (name) => !has(BITS[name]) && !(name === "CAP_BPF" && has(SYS_ADMIN)),
    );
    const evidence = `CapEff ${effective.toString(16)} in ${file}${own ? "" : ", the running balancer"}`;
    if (missing.length === 0) return [ok("the capabilities that the mode needs are there", evidence)];
    return [judged(missing, evidence)];
  },
};

function judged(missing: Capability[], evidence: string): Found {
  const granted = missing.map((name) => name.toLowerCase()).join(",");
  const told = {
    title: `${missing.join(" and ")} ${missing.length === 1 ? "is" : "are"} missing`,
    evidence,
    remedy: `sudo setcap ${granted}+ep "$(readlink -f "$(command -v node)")"`,
  };
  if (missing.every((name) => name === "CAP_BPF")) {
    return warning({ ...told, consequence: "Kernel engines are refused, and user space forwards instead." });
  }
  return error({ ...told, consequence: "The start is refused." });
}

function needed(look: Look): Capability[] {
  if (look.config.mode !== "proxy") {
    const engine = look.config.engine;
    return ["CAP_NET_RAW", "CAP_NET_ADMIN", ...(engine === "af_packet" ? [] : (["CAP_BPF"] as const))];
  }
  const free = Number(sysctl(look.host, "net.ipv4.ip_unprivileged_port_start") ?? 1024);
  const low = frontends(look).some(({ listen }) => listen.port > 0 && listen.port < free);
  return low ? ["CAP_NET_BIND_SERVICE"] : [];
}

function kept({ config }: Look): Capability[] {
  return config.mode === "proxy" ? [] : ["CAP_NET_ADMIN"];
}
