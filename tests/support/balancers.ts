// The balancers in front of the replicas: HAProxy with deploy/haproxy.cfg, and nginx with deploy/nginx.conf.
import { readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { startProgram, type Program } from './topology-programs.js';

const root = path.resolve(import.meta.dirname, '../..');

/**
 * Starts HAProxy with deploy/haproxy.cfg.
 *
 * @param at.replicas as host:port
 * @param at.env variables of the file that differ from its own values
 */
export function startBalancer(at: {
  readonly port: number;
  readonly replicas: readonly string[];
  readonly env?: Readonly<Record<string, string>> | undefined;
  readonly logFile: string;
}): Program {
  const replicas = Object.fromEntries(at.replicas.map((replica, index) => [`REPLICA_${index + 1}`, replica]));
  const env = { HAPROXY_BIND: `127.0.0.1:${at.port}`, ...replicas, ...at.env };
  return startProgram('haproxy', ['-db', '-f', path.join(root, 'deploy/haproxy.cfg')], { env, logFile: at.logFile });
}

/**
 * Starts nginx with deploy/nginx.conf, of which only the addresses, the bounds of a source and the temporary folders differ.
 *
 * @param at.replicas as host:port
 * @param at.folder an existing folder for its temporary files
 * @param at.bounded whether the bounds of a source stay
 */
export async function startNginx(at: {
  readonly port: number;
  readonly replicas: readonly string[];
  readonly folder: string;
  readonly bounded: boolean;
  readonly logFile: string;
}): Promise<Program> {
  const { port, replicas, folder, bounded, logFile } = at;
  const shipped = await readFile(path.join(root, 'deploy/nginx.conf'), 'utf8');
  const [server = ''] = /^ *server replica-1:3000.*;\n/m.exec(shipped) ?? [];
  const servers = replicas.map((replica) => server.replace('replica-1:3000', replica));
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(
    (name) => `    ${name}_temp_path ${folder}/nginx-${name};\n`,
  );
  const config = shipped
    .replace(/^(?: *server replica-\d:3000.*;\n)+/m, servers.join(''))
    .replace('listen 8080;', `listen 127.0.0.1:${port};`)
    .replace('/dev/stdout', path.join(folder, 'nginx-access.log'))
    .replace(/^http \{\n/m, `$&${temporary.join('')}`)
    .replace(/^ *limit_(?:req|conn) .*;\n/gm, bounded ? '$&' : '');
  const file = path.join(folder, 'nginx.conf');
  await writeFile(file, config);
  const own = `daemon off; pid ${folder}/nginx.pid;`;
  return startProgram('nginx', ['-p', folder, '-e', 'stderr', '-c', file, '-g', own], { env: {}, logFile });
}
