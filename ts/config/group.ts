/** Groups of this host, by name or number. */
import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { promisify } from "node:util";

export type GroupResult = { ok: true; gid: number } | { ok: false; message: string };

/** A directory service may be slow to say that it knows no such group. */
const LOOKUP_TIMEOUT_MS = 3000;

/** The number of a group; a number stands for itself, whether anything has that name or not. Never rejects. */
export async function findGroup(group: string | number): Promise<GroupResult> {
  if (typeof group === "number") return { ok: true, gid: group };
  const gid =
    gidIn(await readFile("/etc/group", "utf8").catch(() => ""), group) ?? (await fromServices(group));
  return gid === undefined
    ? { ok: false, message: "no group of this host has that name" }
    : { ok: true, gid };
}

function gidIn(table: string, group: string): number | undefined {
  const fields = table
    .split("\n")
    .map((line) => line.split(":"))
    .find(([name]) => name === group);
  const gid = Number(fields?.[2] || Number.NaN);
  return Number.isInteger(gid) ? gid : undefined;
}

/** What the name services know beside the file, such as LDAP; not every host has the command. */
async function fromServices(group: string): Promise<number | undefined> {
  const options = { timeout: LOOKUP_TIMEOUT_MS };
  const asked = promisify(execFile)("getent", ["group", "--", group], options);
  return gidIn((await asked.catch(() => ({ stdout: "" }))).stdout, group);
}
