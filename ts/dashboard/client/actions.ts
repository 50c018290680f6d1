/** What somebody with a token can do, each after a dialog that says what it means. */
import { count } from "../format.ts";
import { changeServer, type Outcome, reload } from "./changes.ts";
import { ask } from "./dialogs.ts";
import type { Backend, Model, Server } from "./model.ts";
import { setToken } from "./token.ts";
import { percent, share, takesNew } from "./words.ts";

const others = (server: Server, backend: Backend): Server[] =>
  backend.servers.filter((other) => other !== server && takesNew(other));

function afterDrain(server: Server, backend: Backend): string {
  const left = others(server, backend);
  if (left.length === 0) {
    return `No other server of ${backend.name} takes new connections: they will be refused.`;
  }
  const names = left.length <= 3 ? left.map(({ name }) => name).join(", ") : `${count(left.length)} others`;
  return `New connections to ${backend.name} go to ${names}.`;
}

export async function drain(server: Server, backend: Backend): Promise<Outcome | undefined> {
  const open =
    server.open === undefined
      ? "Open connections go on until they end; they are not counted here."
      : server.open === 0
        ? "It has no open connections."
        : server.open === 1
          ? "Its open connection goes on until it ends."
          : `Its ${count(server.open)} open connections go on until they end.`;
  const answer = await ask({
    title: `Drain ${server.key}?`,
    text: [
      `${server.name} gets no new connections from now on. ${open}`,
      afterDrain(server, backend),
      "It stays drained until it is enabled, through health changes and reloads.",
    ],
    action: "Drain",
  });
  if (answer === undefined) return undefined;
  return changeServer(server.backend, server.name, { state: "draining" });
}

export async function enable(server: Server, backend: Backend): Promise<Outcome | undefined> {
  const enabled = { ...server, state: "up" as const };
  const after = { ...backend, servers: backend.servers.map((one) => (one === server ? enabled : one)) };
  const answer = await ask({
    title: `Enable ${server.key}?`,
    text: [
      `${server.name} gets new connections again while it is up: ${percent(share(enabled, after))} of those to ${backend.name}.`,
    ],
    action: "Enable",
  });
  if (answer === undefined) return undefined;
  return changeServer(server.backend, server.name, { state: "enabled" });
}

const weightFrom = (text: string): number | undefined =>
  /^\d{1,5}$/.test(text) && Number(text) <= 65_535 ? Number(text) : undefined;

export async function weigh(server: Server, backend: Backend): Promise<Outcome | undefined> {
  const preview = (text: string): string => {
    const weight = weightFrom(text);
    if (weight === undefined) return "A weight is a whole number from 0 to 65535.";
    const changed = { ...server, weight };
    const after = { ...backend, servers: backend.servers.map((one) => (one === server ? changed : one)) };
    if (weight === 0) return `${server.name} gets no new connections. ${afterDrain(server, backend)}`;
    if (server.state !== "up")
      return `It is ${server.state}, and gets new connections only once that is over.`;
    return `Its share of new connections goes from ${percent(share(server, backend))} to ${percent(share(changed, after))}.`;
  };
  const answer = await ask({
    title: `Weight of ${server.key}`,
    text: ["Open connections are not touched. The weight holds until the configured one changes."],
    field: {
      label: "Weight",
      type: "number",
      value: String(server.weight),
      attributes: { min: "0", max: "65535", step: "1", required: "" },
    },
    preview,
    action: "Set weight",
  });
  if (answer === undefined) return undefined;
  const weight = weightFrom(answer);
  if (weight === undefined) return { ok: false, message: preview(answer) };
  return changeServer(server.backend, server.name, { weight });
}

export async function reloadFile(model: Model): Promise<Outcome | undefined> {
  const answer = await ask({
    title: "Reload the configuration?",
    text: [
      "The file is read again and put in service where it is valid; what did not change is not touched, and open connections go on.",
      `When it is invalid, configuration ${model.overview.config_version} serves on.`,
    ],
    action: "Reload",
  });
  return answer === undefined ? undefined : reload();
}

/** Takes a token; it is kept for this tab. Resolves whether one was entered. */
export async function signIn(why: string): Promise<boolean> {
  const entered = await ask({
    title: "Sign in",
    text: [
      why,
      "The token is that of stats.token_file or CONVEY_STATS_TOKEN. This tab forgets it when it is closed.",
    ],
    field: { label: "Token", type: "password", attributes: { required: "" } },
    action: "Sign in",
  });
  if (!entered) return false;
  setToken(entered.trim());
  return true;
}
