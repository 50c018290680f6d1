/** A vitest reporter that writes what the closing line needs, skip reasons included, to $CONVEY_TEST_REPORT. */
import { writeFileSync } from "node:fs";

export default class Report {
  onTestRunEnd(modules, unhandledErrors) {
    const report = { passed: 0, failed: [], skipped: [] };
    for (const module of modules) {
      for (const test of module.children.allTests()) {
        const name = `${module.relativeModuleId} > ${test.fullName}`;
        const result = test.result();
        if (result.state === "passed") report.passed += 1;
        else if (result.state === "skipped")
          report.skipped.push({ name, reason: result.note ?? "marked as skipped" });
        else report.failed.push({ name, reason: result.state === "failed" ? "failed" : "did not finish" });
      }
      // A file that cannot be imported, or a hook that throws, has no test to blame.
      for (const error of errorsOf(module))
        report.failed.push({ name: module.relativeModuleId, reason: error.message });
    }
    for (const error of unhandledErrors)
      report.failed.push({ name: "unhandled error", reason: error.message });
    writeFileSync(process.env.CONVEY_TEST_REPORT, JSON.stringify(report));
  }
}

function errorsOf(module) {
  return [module, ...module.children.allSuites()].flatMap((part) => part.errors());
}
