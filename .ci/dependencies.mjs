// Compares DEPENDENCIES.md with what is built. With `--write` it brings the file's facts up to date, and leaves a question mark
// where a person has to look; without, a difference is an error, and so is a question mark.

import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

const FILE = 'DEPENDENCIES.md';
const BEGIN = '<!-- .ci/dependencies.mjs writes what follows, but for the last columns of the first and the last table. -->';

/** What somebody can depend on, from the least. A crate is listed under the first that brings it. */
const BUILDS = [
  ['core', 'keybound-core'],
  ['ureq', 'keybound-ureq'],
  ...['log', 'file', 'redis'].map((feature) => [feature, 'keybound-ureq', '--features', feature]),
  ['sandbox', 'keybound-sandbox'],
  ['command', 'keybound'],
  ['wasm', 'keybound-wasm', '--all-features'],
];

const { packages } = JSON.parse(cargo('metadata', '--locked', '--all-features', '--format-version=1'));

const before = readFileSync(FILE, 'utf8');
const after = before.slice(0, before.indexOf(BEGIN)) + [BEGIN, ...tables(before)].join('\n\n') + '\n';

if (process.argv.includes('--write')) {
  writeFileSync(FILE, after);
} else if (after !== before) {
  const [is, should] = [before, after].map((text) => text.split('\n'));
  for (const line of is.filter((one) => !should.includes(one))) console.error(`- ${line}`);
  for (const line of should.filter((one) => !is.includes(one))) console.error(`+ ${line}`);
  console.error(`This is not what ${FILE} says. Look at what is new, and then: node .ci/dependencies.mjs --write`);
  process.exitCode = 1;
} else if (/ \? \|$/m.test(after)) {
  console.error(`${FILE} has a question mark that somebody must answer.`);
  process.exitCode = 1;
}

/** What people wrote into `text` stays: why a crate is there, whatever its version; what a script does, for one version. */
function tables(text) {
  const [, chosenBefore = '', , ranBefore = ''] = text.split(/^## .*$/m);
  const why = new Map([...rows(chosenBefore)].map(([, name, , note]) => [name, note]));
  const read = new Map([...rows(ranBefore)].map(([, name, version, note]) => [`${name} ${version}`, note]));
  const chosen = new Set(
    packages
      .filter((one) => one.source === null && one.publish === null)
      .flatMap((one) => one.dependencies.filter(({ kind }) => kind === null).map(({ name }) => name)),
  );
  const all = [...builds()].sort().map(([crate, build]) => ({ crate, build, ...facts(crate) }));
  const line = (...cells) => `| ${cells.join(' | ')} |`;
  const fact = ({ name, version, build, from, unsafe }) => [name, version, build, from, unsafe];
  return [
    '## What keybound is written with',
    [
      line('crate', 'version', 'for', 'from', '`unsafe`', 'why'),
      '|---|---|---|---|---|---|',
      ...all.filter(({ name }) => chosen.has(name)).map((one) => line(...fact(one), why.get(one.name) ?? '?')),
    ].join('\n'),
    '## What those bring',
    [
      line('crate', 'version', 'for', 'from', '`unsafe`'),
      '|---|---|---|---|---|',
      ...all.filter(({ name }) => !chosen.has(name)).map((one) => line(...fact(one))),
    ].join('\n'),
    '## What runs while it is built',
    [
      line('crate', 'version', 'what', 'what it does'),
      '|---|---|---|---|',
      ...all
        .filter(({ runs }) => runs)
        .map(({ crate, name, version, runs }) => line(name, version, runs, read.get(crate) ?? '?')),
    ].join('\n'),
  ];
}

function rows(table) {
  return table.matchAll(/^\| (\S+) \| (\S+) \| .* \| (.*) \|$/gm);
}

/** From each crate of others, as `name version`, to the first of BUILDS that brings it. */
function builds() {
  const found = new Map();
  for (const [build, crate, ...features] of BUILDS) {
    const tree = cargo('tree', '--locked', '-p', crate, ...features, '--target=all', '-e=normal,build', '--prefix=none');
    for (const [, name, version, ours] of tree.matchAll(/^(\S+) v(\S+)( \(\/.*\))?/gm)) {
      if (!ours && !found.has(`${name} ${version}`)) found.set(`${name} ${version}`, build);
    }
  }
  return found;
}

function facts(crate) {
  const [name, version] = crate.split(' ');
  const found = packages.find((one) => one.name === name && one.version === version);
  const kinds = found.targets.flatMap(({ kind }) => kind);
  const runs = [kinds.includes('custom-build') && 'build script', kinds.includes('proc-macro') && 'macro'];
  const library = found.targets.find(({ kind }) => !kind.includes('custom-build'));
  return {
    name,
    version,
    from: (found.repository ?? '').replace(/^https:\/\/(github\.com\/)?|(\.git|\/|\/tree\/.*)$/g, ''),
    unsafe: hasUnsafe(dirname(library.src_path)) ? 'yes' : '',
    runs: runs.filter(Boolean).join(', '),
  };
}

/** Comments don't count; a word in a text does. */
function hasUnsafe(folder) {
  return readdirSync(folder, { recursive: true })
    .filter((file) => file.endsWith('.rs'))
    .some((file) => /\bunsafe\b/.test(readFileSync(join(folder, file), 'utf8').replace(/\/\/.*$/gm, '')));
}

function cargo(...options) {
  return execFileSync('cargo', options, { encoding: 'utf8', maxBuffer: 1 << 28 });
}
