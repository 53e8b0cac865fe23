// Programs that tests need and npm does not install. A test without its program is skipped, and its title names the program. With
// TEST_REQUIRE_ALL=1, as in the gate, a missing program is a failure.
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import path from 'node:path';

/** The Debian package of each. */
const PACKAGES = {
  amtool: 'prometheus-alertmanager',
  chromium: 'chromium',
  haproxy: 'haproxy',
  ip: 'iproute2',
  nginx: 'nginx-light',
  openssl: 'openssl',
  pgbouncer: 'pgbouncer',
  prometheus: 'prometheus',
  'prometheus-alertmanager': 'prometheus-alertmanager',
  promtool: 'prometheus',
  psql: 'postgresql-client',
  'redis-server': 'redis-server',
  script: 'bsdutils',
  setsid: 'util-linux',
  shellcheck: 'shellcheck',
} as const;

export type Program = keyof typeof PACKAGES;

/** Includes folders that are not on an ordinary user's PATH. */
const FOLDERS = [...(process.env['PATH'] ?? '').split(path.delimiter), '/usr/sbin', '/sbin'];

/** The file of a program; undefined if it is not installed. */
export function fileOf(program: Program): string | undefined {
  return FOLDERS.map((folder) => path.join(folder, program)).find((file) => existsSync(file));
}

/** @throws Error when it is missing and TEST_REQUIRE_ALL=1 */
export function isMissing(program: Program): boolean {
  if (fileOf(program) !== undefined) return false;
  if (process.env['TEST_REQUIRE_ALL'] !== '1') return true;
  throw new Error(`TEST_REQUIRE_ALL=1, and ${program} is missing: apt-get install ${PACKAGES[program]}`);
}

/** For a title: those of these programs that are missing, or nothing. @throws as `isMissing` does */
export function skipNote(...programs: readonly Program[]): string {
  const missing = programs.filter(isMissing);
  const wanted = missing.map((program) => `${program} of the package ${PACKAGES[program]}`);
  return missing.length === 0 ? '' : ` (skipped, not installed: ${wanted.join(', ')})`;
}

/** Whether this process may mount a file system that only its children see, which needs root and a kernel that allows it. */
export function mayMount(): boolean {
  const mount = 'mount -t tmpfs none /mnt';
  return process.platform === 'linux' && spawnSync('unshare', ['--mount', 'sh', '-c', mount]).status === 0;
}

/**
 * Whether this process may make network namespaces, which needs root and a kernel that allows it. This does not depend on
 * installed programs, so TEST_REQUIRE_ALL does not demand it.
 */
export function mayMakeNamespaces(): boolean {
  return process.platform === 'linux' && spawnSync('unshare', ['--net', 'true']).status === 0;
}
