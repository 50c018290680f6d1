/**
 * The API of the running balancer as typed calls: paths, what they take and what they answer are the contracts of the
 * routes, of which only the types are loaded here.
 */
import type { z } from "@hono/zod-openapi";
import type { Problem } from "../config/problem.ts";
import type { ROUTES } from "../http/routes/index.ts";
import { ConveyError, type ConveyErrorCode } from "../native/index.ts";
import { askRunning, type Question, type Reply } from "./client.ts";
import { overridesOf } from "./options.ts";
import type { RunningOptions } from "./running.ts";

type Contract = (typeof ROUTES)[number]["config"];
type Method = Contract["method"];
type Path<M> = Extract<Contract, { method: M }>["path"];
type ContractOf<M, P> = Extract<Contract, { method: M; path: P }>;

type InputOf<C> = (C extends { request: { params: infer S extends z.ZodType } }
  ? { params: z.input<S> }
  : { params?: undefined }) &
  (C extends { request: { query: infer S extends z.ZodType } }
    ? { query?: z.input<S> }
    : { query?: undefined }) &
  (C extends { request: { body: { content: { "application/json": { schema: infer S extends z.ZodType } } } } }
    ? { json?: z.input<S> }
    : { json?: undefined }) & { text?: { type: string; text: string } };

/** What it answers when it is done. */
type OutputOf<C> = C extends {
  responses: Record<200 | 201, { content: { "application/json": { schema: infer S extends z.ZodType } } }>;
}
  ? z.output<S>
  : C extends {
        responses: { 200: { content: { "application/json": { schema: infer S extends z.ZodType } } } };
      }
    ? z.output<S>
    : C extends {
          responses: { 201: { content: { "application/json": { schema: infer S extends z.ZodType } } } };
        }
      ? z.output<S>
      : never;

/** How long an answer may take that waits for nothing. */
const TIMEOUT_MS = 10_000;

/**
 * Asks the balancer that `options` name. With `patient`, for as long as it takes.
 *
 * @throws ConveyError `UNREACHABLE`; else with the code of the answer, its sentence and its problems.
 */
export async function call<const M extends Method, const P extends Path<M>>(
  options: RunningOptions,
  method: M,
  path: P,
  { params, query, json, text }: InputOf<ContractOf<M, P>>,
  { patient = false }: { patient?: boolean } = {},
): Promise<OutputOf<ContractOf<M, P>>> {
  const filled = path.replaceAll(/\{(.+?)\}/g, (_, name: string) =>
    encodeURIComponent((params as Record<string, string>)[name] as string),
  );
  const search = new URLSearchParams((query ?? {}) as Record<string, string>);
  const body = json === undefined ? text : { type: "application/json", text: JSON.stringify(json) };
  const reply = await askOptions(options, {
    method: method.toUpperCase(),
    path: search.size === 0 ? filled : `${filled}?${search}`,
    ...(body === undefined ? {} : { body }),
    ...(patient ? {} : { timeoutMs: TIMEOUT_MS }),
  });
  return answerOf(reply) as OutputOf<ContractOf<M, P>>;
}

/** Calls `onText` with what comes of an answer that goes on, until it ends. Throws as `call()` does. */
export async function follow(
  options: RunningOptions,
  path: string,
  onText: (text: string) => void,
): Promise<void> {
  const reply = await askOptions(options, { path, onData: onText });
  if (reply.ok && reply.status === 200) return;
  answerOf(reply);
}

async function askOptions(options: RunningOptions, question: Omit<Question, "token">): Promise<Reply> {
  const named = options.statsPort !== undefined;
  return await askRunning(
    options.config,
    overridesOf(options, undefined),
    { ...question, token: true },
    { named },
  );
}

function answerOf(reply: Reply): unknown {
  if (!reply.ok) throw new ConveyError("UNREACHABLE", `cannot ask the running convey: ${reply.text}`);
  const answer = parsed(reply.body);
  if (reply.status < 300 && answer !== undefined) return answer;
  const { error, code, problems } = (answer ?? {}) as { error?: string; code?: string; problems?: Problem[] };
  const said = error ?? `${reply.by} answers with HTTP status ${reply.status}`;
  // The socket would have let it pass, so what kept it from being asked is the thing to mend.
  const refused = reply.instead !== "" && (reply.status === 401 || reply.status === 403);
  throw new ConveyError(
    (code ?? "INTERNAL") as ConveyErrorCode,
    refused ? `${said} (${reply.by}, asked because of the socket: ${reply.instead})` : said,
    problems === undefined ? {} : { problems },
  );
}

function parsed(body: string): unknown {
  try {
    return JSON.parse(body);
  } catch {
    return undefined;
  }
}
