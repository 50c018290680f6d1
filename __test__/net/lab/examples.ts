/** Example programs of the engine that tests and bench use. */
import { succeed } from "../../support/processes.ts";

type Profile = "dev" | "release";

const built = new Map<Profile, Promise<string>>();

/**
 * Path of an example program of the engine; builds the examples when they are stale. For what is not measured the
 * profile of `cargo test` does, which has its libraries built already and checks overflows too.
 */
export async function example(name: string, profile: Profile = "dev"): Promise<string> {
  const folder = built.get(profile) ?? buildExamples(profile);
  built.set(profile, folder);
  return `${await folder}/${name}`;
}

async function buildExamples(profile: Profile): Promise<string> {
  const what = ["--profile", profile, "-p", "convey-afpacket", "--examples", "--message-format=json"];
  const out = await succeed(["cargo", "build", ...what], { timeoutMs: 600_000 });
  const folder = /"executable":"([^"]+)\/inject"/.exec(out)?.[1];
  if (folder === undefined) throw new Error("cargo built the examples but named no executable");
  return folder;
}
