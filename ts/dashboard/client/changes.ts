/** Requests that change something, with the token. */
import { setToken, token } from "./token.ts";

/** What came of a change, for people. */
export type Outcome = { ok: boolean; message: string };

export type ServerChange = { weight?: number | null; state?: "enabled" | "draining" };

export const changeServer = (backend: string, server: string, change: ServerChange): Promise<Outcome> =>
  ask("PATCH", `api/v1/servers/${encodeURIComponent(backend)}/${encodeURIComponent(server)}`, change);

export const reload = (): Promise<Outcome> => ask("POST", "api/v1/reload");

/** What is kept of a server. */
export async function serverHistory<T>(backend: string, server: string): Promise<T | undefined> {
  const path = `api/v1/live/servers/${encodeURIComponent(backend)}/${encodeURIComponent(server)}`;
  const response = await fetch(path, { cache: "no-store", headers: authorization() }).catch(() => undefined);
  return response?.ok ? ((await response.json()) as T) : undefined;
}

function authorization(): Record<string, string> {
  const known = token();
  return known === undefined ? {} : { authorization: `Bearer ${known}` };
}

async function ask(method: string, path: string, body?: object): Promise<Outcome> {
  const json = body === undefined ? {} : { "content-type": "application/json" };
  const init = { method, headers: { ...authorization(), ...json } };
  let response: Response;
  try {
    response = await fetch(path, body === undefined ? init : { ...init, body: JSON.stringify(body) });
  } catch {
    return { ok: false, message: "the balancer does not answer" };
  }
  const answer = (await response.json().catch(() => ({}))) as { error?: string; result?: string };
  if (response.status === 401) {
    setToken(undefined);
    return { ok: false, message: "the token was not accepted: sign in again" };
  }
  if (!response.ok) return { ok: false, message: answer.error ?? `HTTP status ${response.status}` };
  return { ok: true, message: answer.result ?? "done" };
}
