// Reads messages as mailparser does: tests/npm/packages.sh run read.js PACKAGE
//
// Each line of the input is a message in base64, each line of the output what is read of it, in JSON: {"authors": [...],
// "author_text": "...", "fields": [[name, value], ...], "error": "..."}.
'use strict';

const readline = require('readline');

const { simpleParser } = require(process.argv[2]);
const options = { skipHtmlToText: true, skipImageLinks: true, skipTextToHtml: true, skipTextLinks: true };

// A group has its addresses one level below.
const addresses = entries =>
  entries.flatMap(entry => (entry.group ? addresses(entry.group) : entry.address ? [entry.address] : []));

// headerLines has each field as it came, with its name.
const parts = line => [line.slice(0, line.indexOf(':')), line.slice(line.indexOf(':') + 1)];

const read = async text => {
  const reading = { authors: [], author_text: '', fields: [], error: '' };
  try {
    const parsed = await simpleParser(Buffer.from(text, 'base64'), options);
    reading.fields = parsed.headerLines.map(({ line }) => parts(line));
    if (parsed.from) {
      reading.authors = addresses(parsed.from.value);
      reading.author_text = parsed.from.text;
    }
  } catch (error) {
    reading.error = String(error);
  }
  return reading;
};

(async () => {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    process.stdout.write(JSON.stringify(await read(line)) + '\n');
  }
})();
