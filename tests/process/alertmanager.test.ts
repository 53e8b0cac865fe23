// A real Alertmanager with the shipped configuration, and a receiver as docs/guide/observability.md adds it: each severity goes to its
// receiver, and the alert of a cause silences those of its effects.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { json } from 'node:stream/consumers';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parse, stringify } from 'yaml';
import { portOf } from '../../src/embedded/port.js';
import { blocksOf, readPage } from '../support/docs.js';
import { FOLDER, readAlerts } from '../support/observability.js';
import { isMissing, skipNote } from '../support/programs.js';
import { eventually } from '../support/service-process.js';

const SECRET = '/run/secrets/alert_webhook';

interface Receiver {
  readonly name: string;
  readonly webhook_configs: readonly { readonly url_file: string }[];
}

describe.skipIf(isMissing('prometheus-alertmanager'))(
  `a real Alertmanager${skipNote('prometheus-alertmanager')}`,
  () => {
    /** What each receiver got: the names of the alerts. */
    const got: Record<string, string[]> = { page: [], ticket: [] };
    let folder: string;
    let people: Server;
    let alertmanager: ReturnType<typeof spawn>;
    let url: string;

    beforeAll(async () => {
      folder = await mkdtemp(path.join(tmpdir(), 'tenantry-alertmanager-'));
      people = createServer((request, response) => {
        void json(request).then((body) => {
          const { alerts } = body as { alerts: { labels: Record<string, string> }[] };
          for (const { labels } of alerts) got[request.url?.slice(1) ?? '']?.push(labels['alertname'] ?? '');
          response.end();
        });
      }).listen(0, '127.0.0.1');
      await once(people, 'listening');

      const [shown] = blocksOf('docs/guide/observability.md').filter(({ text }) => text.includes(SECRET));
      const { receivers } = parse(shown?.text ?? '') as { receivers: readonly Receiver[] };
      const { port: theirs } = people.address() as AddressInfo;
      const shipped = parse(readPage(`${FOLDER}/alertmanager.yml`)) as { route: object };
      const file = path.join(folder, 'alertmanager.yml');
      await writeFile(
        file,
        stringify({
          ...shipped,
          route: { ...shipped.route, group_wait: '500ms' },
          // Alertmanager reads an address from a file since version 0.26. Here it says which receiver was notified.
          receivers: receivers.map(({ name, webhook_configs: hooks }) => ({
            name,
            webhook_configs: hooks.map(({ url_file: _, ...hook }) => ({
              ...hook,
              url: `http://127.0.0.1:${theirs}/${name}`,
            })),
          })),
        }),
      );
      const port = await portOf(path.join(folder, 'port'));
      url = `http://127.0.0.1:${port}`;
      const args = [`--config.file=${file}`, `--storage.path=${folder}`, `--web.listen-address=127.0.0.1:${port}`];
      let said = '';
      alertmanager = spawn('prometheus-alertmanager', [...args, '--cluster.listen-address='], { stdio: 'pipe' });
      alertmanager.stderr?.setEncoding('utf8').on('data', (text: string) => (said += text));
      await eventually('it is ready', () => {
        if (alertmanager.exitCode !== null) throw new Error(`Alertmanager ended:\n${said}`);
        return fetch(`${url}/-/ready`).then(
          ({ ok }) => ok,
          () => false,
        );
      });
    });
    afterAll(async () => {
      if (alertmanager.kill('SIGKILL')) await once(alertmanager, 'close');
      people.close();
      await rm(folder, { recursive: true, force: true });
    });

    async function fire(...names: readonly string[]): Promise<void> {
      const alerts = names.map((alertname) => {
        const alert = readAlerts().find((each) => each.alert === alertname);
        return { labels: { alertname, cluster: '10.0.0.5:5432', ...alert?.labels } };
      });
      const answer = await fetch(`${url}/api/v2/alerts`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify(alerts),
      });
      expect(answer.status).toBe(200);
    }

    it('notifies each receiver of its severity, and of the cause only', async () => {
      await fire('TenantryRegistryAway', 'TenantryServerHung');
      await fire('TenantryFeedStalled', 'TenantryJobFailing', 'TenantryTenantBreakerOpen', 'TenantrySlow');
      await eventually('both are notified', () => got['page']?.length === 2 && got['ticket']?.length === 1);
      expect(got['page']?.toSorted()).toEqual(['TenantryRegistryAway', 'TenantryServerHung']);
      expect(got['ticket']).toEqual(['TenantrySlow']);
    });
  },
);
