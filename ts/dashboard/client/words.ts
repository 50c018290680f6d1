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

/** Share of new connections, of those to its backend. Backups have one while no other server takes any. */
export function share(server: Server, backend: Backend): number {
  const taking = backend.servers.filter(takesNew);
  const ordinary = taking.filter(({ backup }) => !backup);
  const chosen = ordinary.length > 0 ? ordinary : taking;
  const total = chosen.reduce((sum, { weight, part }) => sum + weight * part, 0);
  return chosen.includes(server) ? (server.weight * server.part) / total : 0;
}

/** "3", "3 at 25 %" in slow start, "3, backup". */
export const weightText = ({ weight, part, backup }: Server): string =>
  `${count(weight)}${part < 1 ? ` at ${percent(part)}` : ""}${backup ? ", backup" : ""}`;

export const percent = (part: number): string => `${(part * 100).toFixed(part > 0 && part < 0.1 ? 1 : 0)} %`;
