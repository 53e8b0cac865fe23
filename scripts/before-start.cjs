// Runs before `npm start` and other commands: says in one sentence if this Node is too old, if packages are missing, or if the
// program is not compiled, and compiles it if it can. Only the JavaScript of 2009, so that a Node of any age can read this file.
//
//     node scripts/before-start.cjs          checks, and compiles what has changed
//     node scripts/before-start.cjs check    checks only
'use strict';

var childProcess = require('child_process');
var fs = require('fs');
var path = require('path');

var root = path.join(__dirname, '..');
var compiler = path.join(root, 'node_modules', 'typescript', 'bin', 'tsc');
var program = path.join(root, 'dist', 'src', 'server.js');

checkNode();
checkPackages();
if (process.argv[2] !== 'check') compile();

function checkNode() {
  var oldest = JSON.parse(fs.readFileSync(path.join(root, 'package.json'), 'utf8')).engines.node.replace('>=', '');
  var needed = oldest.split('.').map(Number);
  var own = process.versions.node.split('.').map(Number);
  if (own[0] > needed[0] || (own[0] === needed[0] && own[1] >= needed[1])) return;
  fail(
    'Tenantry needs Node ' +
      oldest +
      ' or later, and this is Node ' +
      process.versions.node +
      '. Install a newer one: https://nodejs.org'
  );
}

function checkPackages() {
  if (fs.existsSync(path.join(root, 'node_modules', 'fastify'))) return;
  fail('The packages of Tenantry are not installed. Run: npm ci');
}

function compile() {
  var compiled = fs.existsSync(program);
  if (!fs.existsSync(compiler)) {
    if (compiled) return;
    fail(
      'The program is not compiled, and the compiler is not installed (npm ci --omit=dev leaves it out). ' +
        'Run: npm ci && npm run build && npm prune --omit=dev'
    );
  }
  say(compiled ? 'compiling what has changed' : 'compiling the program, which takes some seconds');
  var result = childProcess.spawnSync(process.execPath, [compiler, '-b', 'tsconfig.build.json'], {
    cwd: root,
    stdio: 'inherit'
  });
  if (result.status !== 0) fail('The program could not be compiled.');
}

function say(step) {
  process.stdout.write(
    process.stdout.isTTY
      ? 'Tenantry: ' + step + '\n'
      : JSON.stringify({ level: 'info', time: new Date().toISOString(), msg: 'starting: ' + step }) + '\n'
  );
}

function fail(sentence) {
  process.stderr.write(sentence + '\n');
  process.exit(1);
}
