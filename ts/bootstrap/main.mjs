/**
 * Brings a checkout up to date before `npm start`, `npm test` and `npm run build`: packages, addon, JavaScript.
 * Depends on nothing but Node, because it runs before anything is installed; this file also parses on the old
 * Nodes that it refuses.
 */
import { nodeProblem } from "./node-version.mjs";

const problem = nodeProblem(process.versions.node, process.platform);
if (problem) {
  console.error("convey: " + problem);
  process.exitCode = 1;
} else {
  import("./steps.mjs")
    .then((steps) => steps.bringUpToDate())
    .catch((error) => {
      console.error(
        "convey: " + (error && error.forPeople ? error.message : (error && error.stack) || error),
      );
      process.exitCode = 1;
    });
}
