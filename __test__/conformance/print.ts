/** Prints the table with the file of each test: `node --import ./__test__/support/typescript.mjs __test__/conformance/print.ts [id…]` */
import { found } from "./found.ts";
import { CONFORMANCE } from "./table.ts";

const wanted = process.argv.slice(2);
for (const [id, { mode, says, tests, open }] of Object.entries(CONFORMANCE)) {
  if (wanted.length > 0 && !wanted.includes(id)) continue;
  console.log(`${id} (${mode}): ${says}`);
  for (const piece of tests) {
    for (const { file, title } of found(piece)) console.log(`    ${file}: ${title}`);
  }
  if (open !== undefined) console.log(`    open: ${open}`);
}
