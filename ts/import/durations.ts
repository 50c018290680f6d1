/** Durations as HAProxy and nginx write them, in milliseconds. Undefined is what is none. */

const HAPROXY: Readonly<Record<string, number>> = {
  us: 0.001,
  ms: 1,
  s: 1000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
};

/** `500`, which is milliseconds, `500us`, `5s`, `1m`… Parts of a millisecond count as one, as there. */
export function haproxyDuration(text: string): number | undefined {
  const [, digits, unit = ""] = /^(\d{1,12})(us|ms|s|m|h|d)?$/.exec(text) ?? [];
  if (digits === undefined) return undefined;
  return Math.ceil(Number(digits) * (HAPROXY[unit || "ms"] as number));
}

const NGINX: Readonly<Record<string, number>> = {
  ms: 1,
  s: 1000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
  w: 604_800_000,
  M: 2_592_000_000,
  y: 31_536_000_000,
};

/** `60`, which is seconds, `500ms`, `1m`, `1h30m`, `1h 30m`… */
export function nginxDuration(text: string): number | undefined {
  if (!/^(\d{1,12}(ms|[smhdwMy])? ?){1,8}$/.test(text)) return undefined;
  let total = 0;
  for (const [, digits, unit = "s"] of text.matchAll(/(\d+)(ms|[smhdwMy])?/g)) {
    total += Number(digits) * (NGINX[unit] as number);
  }
  return total;
}
