/** Rules of who may come to a frontend and how often: its lists of networks and its rates. */
import { parseNetwork } from "./networks.ts";
import { describeValue, type Finding, formatPath, type KeyPath } from "./problem.ts";
import { error, isTable, oncePerKind, type View } from "./view.ts";

const RATES = ["max_connection_rate", "max_connection_rate_per_client"] as const;

export function admissionRules(view: View): Finding[] {
  return [...lists(view), ...bursts(view), ...(view.mode === "proxy" ? [] : packetRates(view))];
}

function lists({ frontends }: View): Finding[] {
  return frontends.flatMap(({ name, table: { allow, deny } }) => {
    const at = ["frontends", name];
    // Whoever takes the last network out of a list does not mean everybody.
    if (Array.isArray(allow) && allow.length === 0) {
      return [
        error([...at, "allow"], "value", "is empty, which would allow nobody or everybody", {
          found: "[]",
          expected:
            'a network, no such key to allow everybody, or deny = ["0.0.0.0/0", "::/0"] to allow nobody',
        }),
      ];
    }
    return Array.isArray(allow) && Array.isArray(deny) ? conflicts(at, allow, deny) : [];
  });
}

/** Networks in both lists, told where the second stands with the place of the first. */
function conflicts(at: KeyPath, allow: readonly unknown[], deny: readonly unknown[]): Finding[] {
  const network = (entry: unknown): string | undefined => {
    const parsed = typeof entry === "string" ? parseNetwork(entry) : undefined;
    return parsed?.ok ? parsed.value : undefined;
  };
  const allowed = new Map(allow.map((entry, place) => [network(entry), place]));
  allowed.delete(undefined);
  return deny.flatMap((entry, place) => {
    const other = allowed.get(network(entry));
    if (other === undefined) return [];
    const there = formatPath([...at, "allow", other]);
    return [
      error([...at, "deny", place], "value", `is allowed as well, by ${there}`, {
        found: describeValue(entry),
        expected: "a network in one of the two lists",
      }),
    ];
  });
}

function bursts({ frontends }: View): Finding[] {
  const alone = frontends.flatMap(({ name, table }) =>
    RATES.filter((rate) => table[`${rate}_burst`] !== undefined && !table[rate]).map((rate) => [
      "frontends",
      name,
      `${rate}_burst`,
    ]),
  );
  return oncePerKind(alone, "has no effect without the rate it belongs to");
}

/** A packet engine sees a client's first packet before the client has proved its address. */
function packetRates({ frontends, mode }: View): Finding[] {
  return frontends.flatMap(({ name, table }) =>
    RATES.flatMap((key) => {
      const rate = table[key];
      if (typeof rate !== "number" || rate === 0) return [];
      const why =
        "which goes by packets whose source address anybody can forge: a flood of them would use the rate up and lock clients out";
      return [
        error(["frontends", name, key], "value", `is not available in ${mode} mode, ${why}`, {
          found: describeValue(rate),
          expected: '0, or mode = "proxy"',
        }),
      ];
    }),
  );
}

/** The limit of a client in a mode that forwards packets. */
export function packetClientLimit({ root, mode }: View): Finding[] {
  const limit = isTable(root.limits) ? root.limits.max_connections_per_client : undefined;
  if (typeof limit !== "number" || limit === 0) return [];
  const why =
    "which cannot tell a client from one that forges its address: whoever does would use up the connections of another";
  return [
    error(["limits", "max_connections_per_client"], "value", `is not available in ${mode} mode, ${why}`, {
      found: describeValue(limit),
      expected: '0, or mode = "proxy"',
    }),
  ];
}
