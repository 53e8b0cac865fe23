// The doctor: examines the installation, its servers and its tenants, and repairs what is safe to repair.
//
//     the installation ─┬─ server ─┬─ the server itself
//                       │          ├─ page of tenants ── row, mark, role ── what is inside the database
//                       │          └─ databases and roles without a row
//                       └─ server …                       (side by side)
//
// A server that does not answer is one finding, and holds up no other. Nothing is repaired before `mend`. To look inside, a database that
// is closed is opened to its owner for a moment, and a template that is missing is made.
import { listAllClusters } from '../../db/registry/cluster-queries.js';
import { countExaminedTenants, listExaminedTenants } from '../../db/registry/fleet/doctor-queries.js';
import type { TenantRecord } from '../../db/registry/tenant-queries.js';
import { DatabaseFault } from '../../db/driver/database-fault.js';
import { pingServer } from '../../db/server/cluster-inspection.js';
import type { AuditOrigin } from '../../db/shared/audit-rows.js';
import type { Place } from '../clusters/provisioners.js';
import type { ClusterBudget } from '../connections/governors.js';
import { AppError } from '../errors.js';
import { inPlainWords } from '../jobs/plain-words.js';
import { within } from '../lib/deadline.js';
import { examineContent } from './content-checks.js';
import { UNCHECKED, type DoctorCode } from './doctor-codes.js';
import type { DoctorRooms, ExaminedServer } from './doctor-rooms.js';
import { addressOf, finding, keyOf, type Finding } from './findings.js';
import { examineSessions } from './revived-sessions.js';
import { examinePlatform } from './platform-checks.js';
import { awayFinding, examineServer } from './server-checks.js';
import { examineOutside } from './tenant-checks.js';
import { examineUnnamed } from './unnamed-checks.js';

export interface DoctorWish {
  /** Only these codes. What could not be checked is always found. */
  readonly only?: readonly DoctorCode[] | undefined;
  /** Only these tenants, by id; neither servers nor the installation. */
  readonly tenants?: readonly string[] | undefined;
  /** Only this server and its tenants. */
  readonly place?: Place | undefined;
  /** The folder of the PostgreSQL that starts by itself, if there is one. */
  readonly dataDir?: string | undefined;
}

export interface Diagnosis {
  /** Those of the installation first, then by server and tenant. */
  readonly findings: readonly Finding[];
  readonly tenants: number;
  readonly servers: number;
}

/** Called after each tenant. */
export type OnProgress = (done: number, total: number) => void;

export interface MendingSteps {
  /** Before the first repair: resolves if the person agrees. The repairs that these uncover are made without a further question. */
  readonly agree: (repairs: readonly Finding[]) => Promise<void>;
  /** After each repair. @param problem why it failed, in words */
  readonly repaired: (finding: Finding, problem?: string) => void;
  readonly progress?: OnProgress;
}

export interface Doctor {
  /** Never rejects because of a server or a tenant. @throws DatabaseFault of the registry */
  examine(wish?: DoctorWish, progress?: OnProgress): Promise<Diagnosis>;
  /**
   * Examines, repairs, and examines again, until nothing is left that a repair can mend. A repair can uncover the next one: a
   * database without a mark is not entered before it has one.
   *
   * @returns what is left
   * @throws the error of `agree`; AppError `unauthenticated` if the operator is not active
   */
  mend(wish: DoctorWish, origin: AuditOrigin, steps: MendingSteps): Promise<Diagnosis>;
}

/** Tenants of one question to the registry and to a server. */
const PAGE = 200;

/** Databases of a server that are entered at once: each takes a connection of the cluster's reserve. */
const AT_ONCE = 2;

/** Longest wait (ms) for a server that is looked at first, or looked at again. */
const PING_DEADLINE = 10_000;

/** Longest time (ms) for what is asked of a server itself, for a page of its tenants from outside, and inside one tenant. */
const PART_DEADLINE = 60_000;

/** Rounds of repairs: mark, then owners, then schema, then rights. */
const MOST_ROUNDS = 6;

interface Target {
  readonly place: Place;
  /** Undefined for a place without a registered cluster. */
  readonly budget: ClusterBudget | undefined;
  readonly tenants: number;
}

class ServerAway extends Error {
  constructor(override readonly cause: unknown) {
    super('a server does not answer', { cause });
  }
}

export function createDoctor(rooms: DoctorRooms): Doctor {
  const { registry } = rooms;

  async function targetsOf({ tenants, place }: DoctorWish): Promise<Target[]> {
    await rooms.ensureDefaultCluster();
    await rooms.clusterDirectory.refresh();
    const targets = new Map<string, Target>();
    for (const row of await listAllClusters(registry)) {
      const { host, port, budget } = rooms.clusterDirectory.of(row);
      targets.set(addressOf(row), { place: { host, port }, budget, tenants: 0 });
    }
    for (const { host, port, tenants: count } of await countExaminedTenants(registry, tenants)) {
      const at = addressOf({ host, port });
      targets.set(at, { place: { host, port }, budget: targets.get(at)?.budget, tenants: count });
    }
    return [...targets.values()].filter(
      (target) =>
        (place === undefined || addressOf(target.place) === addressOf(place)) &&
        (tenants === undefined || target.tenants > 0),
    );
  }

  /** @throws ServerAway */
  async function ping({ provisioner: { cluster } }: ExaminedServer): Promise<void> {
    try {
      await within(pingServer(cluster), PING_DEADLINE, () => new DatabaseFault('timeout', 'no answer'));
    } catch (error) {
      throw new ServerAway(error);
    }
  }

  /** @returns a finding if the part fails @throws ServerAway if it fails because the server is away */
  async function guarded(
    server: ExaminedServer,
    about: { readonly tenant?: TenantRecord },
    work: () => Promise<readonly Finding[]>,
  ): Promise<readonly Finding[]> {
    try {
      return await within(work(), PART_DEADLINE, () => new DatabaseFault('timeout', 'no answer'));
    } catch (error) {
      if (error instanceof DatabaseFault && !error.answered) await ping(server);
      return [finding('not-checked', { place: server.place, ...about }, inSentences(error))];
    }
  }

  /** Adds to `findings` at once: what is known stays if the server goes away later. @throws ServerAway */
  async function examineTenants(
    server: ExaminedServer,
    ids: readonly string[] | undefined,
    { findings, onTenant }: { readonly findings: Finding[]; readonly onTenant: () => void },
  ): Promise<void> {
    let after = '';
    for (;;) {
      const page = await listExaminedTenants(registry, server.place, { after, limit: PAGE, ids });
      let outside: Awaited<ReturnType<typeof examineOutside>> = new Map();
      const look = async (): Promise<readonly Finding[]> => {
        outside = await examineOutside(rooms, server, page);
        return [];
      };
      findings.push(...(await guarded(server, {}, look)));
      const waiting = page.values();
      const worker = async (): Promise<void> => {
        for (const tenant of waiting) {
          const seen = outside.get(tenant.id);
          const inside = seen?.enters
            ? await guarded(server, { tenant }, () => examineContent(rooms, { ...server, tenant }, seen))
            : [];
          findings.push(...withoutProof(seen?.findings ?? [], inside), ...inside);
          onTenant();
        }
      };
      await Promise.all(Array.from({ length: Math.min(AT_ONCE, page.length) }, worker));
      const last = page.at(-1);
      if (!last || page.length < PAGE) return;
      after = last.dbName;
    }
  }

  /** @throws DatabaseFault of the registry */
  async function examineTarget(
    { place, budget, tenants }: Target,
    wish: DoctorWish,
    onTenant: () => void,
  ): Promise<Finding[]> {
    if (!budget) {
      const found = `${tenants} tenants are on this server, and no cluster is registered there.`;
      return [finding('not-checked', { place }, found)];
    }
    const findings: Finding[] = [];
    try {
      const provisioner = await rooms.provisioners.at(place).catch((error: unknown) => {
        throw new ServerAway(error);
      });
      const server: ExaminedServer = { place, provisioner, installation: await rooms.installation() };
      await ping(server);
      if (wish.tenants === undefined)
        findings.push(...(await guarded(server, {}, () => examineServer(server, budget))));
      await examineTenants(server, wish.tenants, { findings, onTenant });
      if (wish.tenants === undefined)
        findings.push(...(await guarded(server, {}, () => examineUnnamed(rooms, server))));
    } catch (error) {
      if (!(error instanceof ServerAway)) throw error;
      findings.push(awayFinding(place, error.cause));
    }
    return findings;
  }

  async function examine(wish: DoctorWish = {}, progress: OnProgress = () => undefined): Promise<Diagnosis> {
    const targets = await targetsOf(wish);
    const total = targets.reduce((sum, { tenants }) => sum + tenants, 0);
    let done = 0;
    const onTenant = (): void => {
      progress((done += 1), total);
    };
    const ofPlatform =
      wish.tenants === undefined && wish.place === undefined ? examinePlatform(rooms, wish.dataDir) : [];
    const found = await Promise.all([ofPlatform, ...targets.map((target) => examineTarget(target, wish, onTenant))]);
    const all = found.flat();
    if (wish.tenants === undefined) all.push(...examineSessions(rooms, all));
    const { only } = wish;
    const wanted = ({ code }: Finding): boolean =>
      only === undefined || only.includes(code) || UNCHECKED.includes(code);
    return { findings: all.filter(wanted).sort(inOrder), tenants: total, servers: targets.length };
  }

  async function mend(wish: DoctorWish, origin: AuditOrigin, steps: MendingSteps): Promise<Diagnosis> {
    /** What was repaired, so that a repair that does not help is not made again. */
    const made = new Set<string>();
    let diagnosis = await examine(wish, steps.progress);
    for (let round = 1; round <= MOST_ROUNDS; round += 1) {
      const due = diagnosis.findings.filter((each) => each.repair && !made.has(keyOf(each)));
      if (due.length === 0) break;
      const before = made.size;
      if (round === 1) await steps.agree(due);
      for (const each of due) {
        const problem = await problemOf(each, origin);
        if (problem === undefined) made.add(keyOf(each));
        steps.repaired(each, problem);
      }
      diagnosis = await examine(wish, steps.progress);
      // What failed is tried again if something else was repaired: that may have been the reason.
      if (made.size === before) break;
    }
    return diagnosis;
  }

  return { examine, mend };
}

/** Makes a repair. Returns why it failed, in words. @throws AppError `unauthenticated` */
async function problemOf({ repair }: Finding, origin: AuditOrigin): Promise<string | undefined> {
  try {
    await repair?.run(origin);
    return undefined;
  } catch (error) {
    if (error instanceof AppError && error.code === 'unauthenticated') throw error;
    return inSentences(error);
  }
}

function inSentences(error: unknown): string {
  return error instanceof AppError && error.detail !== undefined ? error.detail : `${capital(inPlainWords(error))}.`;
}

/** A database is marked if its marker proves its tenant. The provisioner cannot read a marker in a table of a superuser. */
function withoutProof(outside: readonly Finding[], inside: readonly Finding[]): readonly Finding[] {
  const isUnproven = ({ code, repair }: Finding): boolean =>
    code === 'marker-missing' || code === 'marker-foreign' || (code === 'owners-wrong' && !repair);
  if (!inside.some(isUnproven)) return outside;
  return outside.map(({ repair, ...rest }) => (rest.code === 'mark-missing' || !repair ? rest : { ...rest, repair }));
}

function inOrder(one: Finding, other: Finding): number {
  const placeOf = ({ cluster = '', tenant, database = '' }: Finding): string =>
    [cluster, tenant?.slug ?? '', database].join(' ');
  return placeOf(one) < placeOf(other) ? -1 : Number(placeOf(one) > placeOf(other));
}

function capital(part: string): string {
  return part.charAt(0).toUpperCase() + part.slice(1);
}
