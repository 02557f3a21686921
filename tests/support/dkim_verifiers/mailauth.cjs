// mailauth (npm) as a verifier. A line in: the message and the key record, each in hexadecimal digits. A line out: the
// result. With "arc" as its argument it validates the ARC chain in place of DKIM signatures.
"use strict";
const { dkimVerify } = require("mailauth/lib/dkim/verify");
const { arc } = require("mailauth/lib/arc");
const readline = require("node:readline");

const ofArc = process.argv[2] === "arc";

async function result(message, key) {
  const resolver = async () => [[key.toString("latin1")]];
  const found = await dkimVerify(message, { resolver, curTime: new Date(1700000000000) });
  if (ofArc) {
    return (await arc(found.arc, { resolver })).status.result;
  }
  return found.results.map((each) => each.status.result)[0] ?? "none";
}

(async () => {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const [message, key] = line.split("\t").map((each) => Buffer.from(each, "hex"));
    let said;
    try {
      said = await result(message, key);
    } catch {
      said = "raises";
    }
    console.log(said);
  }
})();
