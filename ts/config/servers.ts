/** Judges servers that come while a balancer runs, by the rules that a configuration is judged by. */
import type { z } from "zod";
import { plainCopy } from "./check.ts";
import { type HostFacts, hereFacts } from "./host.ts";
import { findingsOf } from "./issues.ts";
import { type Finding, formatPath } from "./problem.ts";
import { checkRules } from "./rules.ts";
import { backendSchema, type Config, type ServerConfig } from "./schema.ts";

const serversSchema = backendSchema.shape.servers.unwrap();

/** The servers of `backend`, with every default applied; or what is wrong with them. */
export function parseServers(
  backend: string,
  servers: unknown,
): { ok: true; servers: Map<string, ServerConfig> } | { ok: false; findings: Finding[] } {
  const plain = plainCopy(servers, 2);
  const at = ["backends", backend, "servers"];
  // zod's record passes over this one name, since assigning it would change the object's prototype.
  const reserved = "__proto__";
  if (typeof plain === "object" && plain !== null && Object.hasOwn(plain, reserved)) {
    const name = [...at, reserved];
    return {
      ok: false,
      findings: [{ severity: "error", at: name, point: "key", message: "this name is reserved" }],
    };
  }
  const result = serversSchema.safeParse(plain);
  if (result.success) return { ok: true, servers: new Map(Object.entries(result.data)) };
  const issues = result.error.issues.map((issue) => ({ ...issue, path: [...at, ...issue.path] }));
  return { ok: false, findings: findingsOf(issues as z.core.$ZodIssue[], within(at, plain)) };
}

/**
 * What the rules between keys say of `next`, a checked configuration whose servers were changed since it was
 * `before`: errors that are new, and the warnings about changed servers and their backends.
 */
export function judgeServers(before: Config, next: Config, host: HostFacts = hereFacts()): Finding[] {
  const findings = checkRules(asWritten(next), host);
  const errors = findings.filter(({ severity }) => severity === "error");
  const known = errors.length === 0 ? new Set() : new Set(checkRules(asWritten(before), host).map(sentence));
  const changed = changedServers(before, next);
  return [
    ...errors.filter((finding) => !known.has(sentence(finding))),
    ...findings.filter(({ severity, at }) => severity === "warning" && changed(at)),
  ];
}

const sentence = ({ at, message }: Finding): string => `${formatPath(at)}\0${message}`;

/** Whether a key path names a changed server, or what all servers of its backend are together. */
function changedServers(before: Config, next: Config): (at: Finding["at"]) => boolean {
  return (at) => {
    const [section, backend, servers, name] = at.map(String);
    if (section !== "backends" || backend === undefined) return false;
    const [old, now] = [before, next].map(({ backends }) =>
      Object.hasOwn(backends, backend) ? backends[backend]?.servers : undefined,
    );
    if (old === now) return false;
    if (servers === undefined) return true;
    if (servers !== "servers") return false;
    if (name === undefined) return true;
    return serverOf(old, name) !== serverOf(now, name);
  };
}

const serverOf = (
  servers: Record<string, ServerConfig> | undefined,
  name: string,
): ServerConfig | undefined =>
  servers !== undefined && Object.hasOwn(servers, name) ? servers[name] : undefined;

/** A limit of 0 is none, and need not have been written. */
function asWritten(config: Config): unknown {
  const backends = Object.entries(config.backends).map(([name, backend]) => [
    name,
    {
      ...backend,
      servers: Object.fromEntries(
        Object.entries(backend.servers).map(([server, { max_connections, ...rest }]) => [
          server,
          max_connections === 0 ? rest : { ...rest, max_connections },
        ]),
      ),
    },
  ]);
  return { ...config, backends: Object.fromEntries(backends) };
}

/** `value` at the end of a path of tables. */
const within = (path: readonly string[], value: unknown): unknown =>
  path.reduceRight<unknown>((inner, key) => Object.fromEntries([[key, inner]]), value);
