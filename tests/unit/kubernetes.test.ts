// The manifests of deploy/kubernetes, checked without a cluster: against the schemas and the types of Kubernetes, and against the
// settings, routes, secrets and image of the service.
import { randomBytes } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { Deployment } from 'kubernetes-models/apps/v1';
import { Job } from 'kubernetes-models/batch/v1';
import { NetworkPolicy } from 'kubernetes-models/networking.k8s.io/v1';
import { PodDisruptionBudget } from 'kubernetes-models/policy/v1';
import { ConfigMap, Service } from 'kubernetes-models/v1';
import ts from 'typescript';
import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { makeTokenKey } from '../../src/auth/keyring.js';
import { readSettings, secretVariables, variables } from '../../src/config/index.js';

const root = path.resolve(import.meta.dirname, '../..');
const folder = path.join(root, 'deploy/kubernetes');
const read = (file: string): string => readFileSync(path.join(root, file), 'utf8');
const manifest = (file: string): unknown => parse(readFileSync(path.join(folder, file), 'utf8'));

/** The class of each kind, and its module. */
const kinds = {
  ConfigMap: { Model: ConfigMap, module: 'v1' },
  Deployment: { Model: Deployment, module: 'apps/v1' },
  Job: { Model: Job, module: 'batch/v1' },
  NetworkPolicy: { Model: NetworkPolicy, module: 'networking.k8s.io/v1' },
  PodDisruptionBudget: { Model: PodDisruptionBudget, module: 'policy/v1' },
  Service: { Model: Service, module: 'v1' },
} as const;

interface Manifest {
  readonly kind: keyof typeof kinds;
  readonly metadata: { readonly labels: Readonly<Record<string, string>> };
}

const all = readdirSync(folder).map((file) => ({ file, content: manifest(file) as Manifest }));

/** The faults that TypeScript finds in manifests that are written as constants: names of fields that do not exist, for example. */
function faultsOfTypes(manifests: readonly Manifest[]): string[] {
  const name = path.join(root, 'tests/unit/manifests.ts');
  const source = manifests
    .map(
      (each, index) =>
        `import type { I${each.kind} as T${index} } from 'kubernetes-models/${kinds[each.kind].module}';
export const c${index}: T${index} = ${JSON.stringify(each)};`,
    )
    .join('\n');
  const options: ts.CompilerOptions = {
    strict: true,
    noEmit: true,
    skipLibCheck: true,
    types: [],
    module: ts.ModuleKind.NodeNext,
    moduleResolution: ts.ModuleResolutionKind.NodeNext,
  };
  const host = ts.createCompilerHost(options);
  const getSourceFile = host.getSourceFile.bind(host);
  host.getSourceFile = (file, ...rest) =>
    file === name ? ts.createSourceFile(name, source, ts.ScriptTarget.Latest) : getSourceFile(file, ...rest);
  const program = ts.createProgram([name], options, host);
  return ts.getPreEmitDiagnostics(program).map(({ messageText }) => ts.flattenDiagnosticMessageText(messageText, ' '));
}

describe('the manifests of Kubernetes', () => {
  it.each(all)('$file has the schema of its kind', ({ content }) => {
    const { Model } = kinds[content.kind];
    expect(() => {
      new Model(content).validate();
    }).not.toThrow();
  });

  it('have no field that their kinds do not have', () => {
    const misspelt = { ...(manifest('service.yaml') as Manifest), specc: {} };
    expect(faultsOfTypes([misspelt])).toEqual([expect.stringContaining('specc')]);
    expect(faultsOfTypes(all.map(({ content }) => content))).toEqual([]);
  }, 60_000);

  const settings = (manifest('settings.yaml') as { readonly data: Readonly<Record<string, string>> }).data;
  const { spec: deployment } = manifest('replicas.yaml') as Pod;
  const { spec: job } = manifest('migrate.yaml') as Pod;
  const pods = [deployment.template.spec, job.template.spec];
  const [replica] = deployment.template.spec.containers;
  if (!replica) throw new Error('the deployment has no container');
  const production = readSettings({
    NODE_ENV: 'production',
    DATABASE_URL: 'postgres://a:b@c/d',
    TENANT_DATABASE_URL: 'postgres://a:b@c/d',
    JWT_KEYS: makeTokenKey('k1'),
    OPERATOR_PASSWORD: 'correct horse battery staple',
    ENCRYPTION_KEYS: `k1:${randomBytes(32).toString('base64')}`,
    ...Object.fromEntries(Object.entries(settings).filter(([name]) => !name.endsWith('_FILE'))),
  });

  it('give settings that a process in production accepts, and name each secret by its file', () => {
    expect(production.tenants.clusterBudget.tenants).toBe(Number(settings['CLUSTER_CONNECTION_BUDGET']));
    const files = Object.entries(settings).filter(([name]) => name.endsWith('_FILE'));
    for (const [name, file] of files) {
      expect(secretVariables).toContain(name.replace(/_FILE$/, ''));
      // A file that deploy/make-env.sh writes.
      expect(read('deploy/make-env.sh')).toContain(`put ${path.basename(file)} `);
      expect(path.dirname(file)).toBe('/run/secrets/tenantry');
    }
    for (const name of Object.keys(settings)) expect(Object.keys(variables)).toContain(name.replace(/_FILE$/, ''));
    for (const { containers, volumes } of pods) {
      expect(containers[0]?.volumeMounts).toContainEqual(expect.objectContaining({ name: 'secrets', readOnly: true }));
      // 0440: the group of the process reads it, and nobody else.
      expect(volumes).toContainEqual(
        expect.objectContaining({ secret: expect.objectContaining({ defaultMode: 0o440 }) as unknown }),
      );
    }
  });

  it('leave a replica the time to stop', () => {
    const { drain, timeout } = production.shutdown;
    const before = replica.lifecycle?.preStop.sleep.seconds ?? 0;
    expect(before).toBeGreaterThan(0);
    expect(deployment.template.spec.terminationGracePeriodSeconds).toBeGreaterThan(before + (drain + timeout) / 1_000);
  });

  it('ask the health of the replica, with which a restart is not asked for while the registry is away', () => {
    const { startupProbe, livenessProbe, readinessProbe } = replica;
    expect(startupProbe?.httpGet).toEqual({ path: '/health/live', port: 'http' });
    expect(livenessProbe?.httpGet).toEqual({ path: '/health/live', port: 'http' });
    expect(readinessProbe?.httpGet).toEqual({ path: '/health/ready', port: 'http' });
    // /health/ready waits a second for the registry.
    expect(readinessProbe?.timeoutSeconds).toBeGreaterThan(1);
    const dockerfile = read('Dockerfile');
    expect(dockerfile).toContain(`PORT=${String(replica.ports?.find(({ name }) => name === 'http')?.containerPort)} `);
    expect(String(replica.ports?.find(({ name }) => name === 'metrics')?.containerPort)).toBe(settings['METRICS_PORT']);
  });

  it('run the image of this version without rights, and lead to the replicas only', () => {
    const { version } = JSON.parse(read('package.json')) as { version: string };
    for (const { containers, ...pod } of pods) {
      expect(pod.securityContext).toMatchObject({ runAsNonRoot: true, seccompProfile: { type: 'RuntimeDefault' } });
      expect(pod.automountServiceAccountToken).toBe(false);
      for (const { image, securityContext } of containers) {
        expect(image).toBe(`tenantry:${version}`);
        expect(securityContext).toEqual({
          readOnlyRootFilesystem: true,
          allowPrivilegeEscalation: false,
          capabilities: { drop: ['ALL'] },
        });
      }
    }
    const { labels } = deployment.template.metadata;
    const { spec: service } = manifest('service.yaml') as { spec: { selector: unknown } };
    const { spec: disruptions } = manifest('disruptions.yaml') as { spec: { selector: { matchLabels: unknown } } };
    const { spec: network } = manifest('network.yaml') as { spec: { podSelector: { matchLabels: unknown } } };
    expect([service.selector, disruptions.selector.matchLabels, network.podSelector.matchLabels]).toEqual(
      Array.from({ length: 3 }, () => labels),
    );
    expect(job.template.metadata.labels).not.toEqual(labels);
  });
});

interface Probe {
  readonly httpGet: unknown;
  readonly timeoutSeconds?: number;
}

interface Pod {
  readonly spec: {
    readonly template: {
      readonly metadata: { readonly labels: unknown };
      readonly spec: {
        readonly terminationGracePeriodSeconds?: number;
        readonly automountServiceAccountToken: boolean;
        readonly securityContext: unknown;
        readonly volumes: readonly unknown[];
        readonly containers: readonly {
          readonly image: string;
          readonly ports?: readonly { readonly name: string; readonly containerPort: number }[];
          readonly startupProbe?: Probe;
          readonly livenessProbe?: Probe;
          readonly readinessProbe?: Probe;
          readonly lifecycle?: { readonly preStop: { readonly sleep: { readonly seconds: number } } };
          readonly securityContext: unknown;
          readonly volumeMounts: readonly unknown[];
        }[];
      };
    };
  };
}
