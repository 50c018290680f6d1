/** Rows in words: what the table shows, what is copied, what a dialog says. */
import { bytes, count, NOT_VISIBLE, perSecond, UNCOUNTED } from "../format.ts";
import type { Backend, Server } from "./model.ts";

export const counted = (n: number | undefined): string => (n === undefined ? UNCOUNTED : count(n));
export const ratePerSecond = (n: number | undefined | null): string =>
  n === undefined || n === null ? UNCOUNTED : perSecond(n);
export const size = (n: number | null): string => (n === null ? NOT_VISIBLE : bytes(n));
export const sizePerSecond = (n: number | null): string => (n === null ? NOT_VISIBLE : `${bytes(n)}/s`);

/** "3 of 4 up", and what the others are. */
export function tally(servers: readonly Server[]): string {
  if (servers.length === 0) return "no servers";
  const of = (state: string): number => servers.filter((server) => server.state === state).length;
  const [down, draining] = [of("down"), of("draining")];
  const more = [
    ...(down > 0 ? [`${count(down)} down`] : []),
    ...(draining > 0 ? [`${count(draining)} draining`] : []),
  ];
  return [`${count(of("up"))} of ${count(servers.length)} up`, ...more].join(", ");
}

/** Who waits for a place, where somebody has. */
export function queue({ waiting = 0, waited = 0, waited_in_vain = 0 }: Backend): string[] {
  if (waited + waited_in_vain === 0) return [];
  const vain = waited_in_vain > 0 ? [`${count(waited_in_vain)} closed instead`] : [];
  return [[`${count(waiting)} waiting for a place`, ...vain].join(", ")];
}

/** Whether it may get new connections. */
export const takesNew = ({ state, weight }: Server): boolean => state === "up" && weight > 0;

/** Share of new connections, of those to its backend. */
export function share(server: Server, backend: Backend): number {
  const total = backend.servers.filter(takesNew).reduce((sum, { weight }) => sum + weight, 0);
  return takesNew(server) && total > 0 ? server.weight / total : 0;
}

export const percent = (part: number): string => `${(part * 100).toFixed(part > 0 && part < 0.1 ? 1 : 0)} %`;
