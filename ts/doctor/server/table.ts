/** Every check of a DSR server, in the order in which they are told. */
import { inOrder } from "../examine.ts";
import type { Finding } from "../finding.ts";
import { mtu, redirects, rpFilter, superFrames } from "./answers.ts";
import { listener } from "./listener.ts";
import type { ServerCheck, ServerLook } from "./look.ts";
import { prepared } from "./prepared.ts";
import { vip } from "./vip.ts";

const CHECKS: readonly ServerCheck[] = [prepared, vip, listener, rpFilter, mtu, superFrames, redirects];

/** Everything that is found on a server. */
export function examineServer(look: ServerLook): Promise<Finding[]> {
  const applies = ({ methods }: ServerCheck): boolean => methods?.includes(look.method) ?? true;
  return inOrder(CHECKS.filter(applies), (check) => check.find(look));
}
