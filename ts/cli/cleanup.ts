/** `convey cleanup`: takes back what a killed balancer left on this host. */
import type { Command } from "commander";
import { refuseOperands } from "./options.ts";

export function cleanupCommand(program: Command): void {
  const command = program
    .command("cleanup")
    .description("take back what a killed Convey left on this host; the next start does the same")
    .option("--json", 'print {"reclaimed": […]} as JSON')
    .allowExcessArguments()
    .action(async (options: { json?: true }) => {
      refuseOperands(command);
      const { loadDataplane } = await import("../native/index.ts");
      const reclaimed = (await loadDataplane()).hostCleanup();
      const lines = reclaimed.length > 0 ? reclaimed : ["nothing to clean up"];
      process.stdout.write(
        options.json ? `${JSON.stringify({ reclaimed }, undefined, 2)}\n` : `${lines.join("\n")}\n`,
      );
    });
}
