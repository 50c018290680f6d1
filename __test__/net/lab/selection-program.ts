/**
 * A balancer on its host whose servers a test drains, enables and weighs. Started with a configuration as JSON; each line
 * on standard input is a command, each line it prints the answer: "drain NAME", "enable NAME", "explain SOURCE DESTINATION",
 * "flows": the servers of all flows. Without a command it is what `/stats` tells of the servers of backend "app".
 */
import { createInterface } from "node:readline";
import { type ConfigInput, createBalancer } from "../../../ts/index.ts";

const stop = new AbortController();
process.once("SIGTERM", () => stop.abort());
const config = JSON.parse(process.argv[2] ?? "") as ConfigInput;
const lines = createInterface({ input: process.stdin });
await using lb = await createBalancer(config, { keepAlive: true, signal: stop.signal });
void lb.closed.then(() => lines.close());
let answers = 0;
const say = (what: unknown): void => console.log(`answer ${++answers}: ${JSON.stringify(what)}`);
const servers = () => lb.stats().backends.app?.server_details;
/** Of all pages: one covers a part of a large table. */
const serversOfFlows = async (): Promise<(string | undefined)[]> => {
  const found: (string | undefined)[] = [];
  for (let cursor: string | null | undefined; cursor !== null; ) {
    const page = await lb.flows({}, { cursor });
    found.push(...page.flows.map(({ server }) => server?.name));
    cursor = page.cursor;
  }
  return found;
};
say(servers());
for await (const line of lines) {
  const [command = "", name = "", destination = ""] = line.split(" ");
  if (command === "drain") void lb.drain(name, { deadlineMs: 0 });
  if (command === "enable") lb.enable(name);
  if (command === "explain") say(await lb.explain("tcp", name, destination));
  else if (command === "flows") say(await serversOfFlows());
  else say(servers());
}
