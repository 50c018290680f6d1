/** Kernel parameters, read by the names that sysctl takes. */
import type { Host } from "./host.ts";

/** Where a parameter stands; a dot in an interface's name is a slash in the key, as sysctl has it. */
export function sysctlPath(key: string): string {
  return `/proc/sys/${key.replace(/[./]/g, (mark) => (mark === "." ? "/" : "."))}`;
}

/** The key of an interface's parameter. */
export function interfaceKey(family: 4 | 6, device: string, name: string): string {
  return `net.ipv${family}.conf.${device.replaceAll(".", "/")}.${name}`;
}

/** Its value without the newline, tabs as spaces; undefined where this kernel, or this namespace, has no such parameter. */
export function sysctl(host: Host, key: string): string | undefined {
  return host.read(sysctlPath(key))?.trim().replace(/\s+/g, " ");
}

/** A value with its name, as evidence. */
export function shown(host: Host, ...keys: string[]): string {
  return keys.map((key) => `${key} is ${(sysctl(host, key) ?? "absent") || "empty"}`).join(", ");
}

/** What holds for an interface of parameters of which the larger of its own and `all` counts. */
export function effective(
  host: Host,
  device: string,
  name: string,
): { value: number; keys: { all: string; own: string }; evidence: string } {
  const keys = { all: `net.ipv4.conf.all.${name}`, own: interfaceKey(4, device, name) };
  const values = [keys.all, keys.own].map((key) => Number(sysctl(host, key) ?? 0));
  return { value: Math.max(...values), keys, evidence: shown(host, keys.all, keys.own) };
}
