// A real Prometheus on a free port, with its data in a temporary folder.
import { spawn } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { stringify } from 'yaml';
import { portOf } from '../../src/embedded/port.js';
import { eventually } from './service-process.js';

export interface Series {
  readonly metric: Readonly<Record<string, string>>;
  readonly value: number;
}

export interface Prometheus {
  /** The answer to a query now. @throws Error with its words if it refuses the query */
  query(expression: string): Promise<readonly Series[]>;
  /** The names of the alerts that fire now. */
  firing(): Promise<readonly string[]>;
  /** Ends it and removes its files. */
  close(): Promise<void>;
}

/** An aborted run leaves none running. */
const running = new Set<ReturnType<typeof spawn>>();
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL');
});

/**
 * Starts one. Close it.
 *
 * @param config as in prometheus.yml
 * @param rules the text of its rule file, which `config` need not name
 */
export async function startPrometheus(config: Readonly<Record<string, unknown>>, rules: string): Promise<Prometheus> {
  const folder = await mkdtemp(path.join(tmpdir(), 'tenantry-prometheus-'));
  const port = await portOf(path.join(folder, 'port'));
  const file = path.join(folder, 'prometheus.yml');
  await writeFile(path.join(folder, 'rules.yml'), rules);
  await writeFile(file, stringify({ ...config, rule_files: ['rules.yml'] }));
  const child = spawn(
    'prometheus',
    [
      `--config.file=${file}`,
      `--storage.tsdb.path=${path.join(folder, 'data')}`,
      `--web.listen-address=127.0.0.1:${port}`,
      '--log.level=warn',
    ],
    { stdio: ['ignore', 'ignore', 'pipe'] },
  );
  running.add(child);
  let said = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => (said += text));
  const ended = new Promise<void>((resolve) =>
    child.once('close', () => {
      resolve();
    }),
  );
  const url = `http://127.0.0.1:${port}`;

  async function ask<T>(route: string): Promise<T> {
    const answer = (await (await fetch(url + route)).json()) as { status: string; error?: string; data: T };
    if (answer.status !== 'success') throw new Error(`${route}: ${answer.error ?? ''}`);
    return answer.data;
  }

  const prometheus: Prometheus = {
    async query(expression) {
      const { resultType, result } = await ask<{ resultType: string; result: unknown }>(
        `/api/v1/query?query=${encodeURIComponent(expression)}`,
      );
      if (resultType === 'scalar') return [{ metric: {}, value: Number((result as [number, string])[1]) }];
      return (result as { metric: Record<string, string>; value: [number, string] }[]).map(({ metric, value }) => ({
        metric,
        value: Number(value[1]),
      }));
    },
    async firing() {
      const { alerts } = await ask<{ alerts: { state: string; labels: Record<string, string> }[] }>('/api/v1/alerts');
      const names = alerts.filter(({ state }) => state === 'firing').map(({ labels }) => labels['alertname'] ?? '');
      return [...new Set(names)].toSorted();
    },
    async close() {
      child.kill('SIGKILL');
      await ended;
      running.delete(child);
      await rm(folder, { recursive: true, force: true });
    },
  };
  try {
    await eventually('Prometheus is ready', async () => {
      if (child.exitCode !== null) throw new Error(`Prometheus ended:\n${said}`);
      return fetch(`${url}/-/ready`).then(
        ({ ok }) => ok,
        () => false,
      );
    });
  } catch (error) {
    await prometheus.close();
    throw error;
  }
  return prometheus;
}
