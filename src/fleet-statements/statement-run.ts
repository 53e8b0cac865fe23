// One run of a statement for many tenants, under its lock and with its file:
//
//     tenants → audit → each tenant: read
//               audit → each tenant: dry run → confirm → audit → each tenant: change
//
// A tenant that fails does not stop the others. A text that no database accepts stops all.
import { Interrupted } from '../../db/driver/one-session.js';
import type { TenantRecord } from '../../db/registry/tenant-queries.js';
import { endGuestSessions, listGuestRoles, transactionStatus } from '../../db/server/guest-roles.js';
import type { AuditOrigin } from '../../db/shared/audit-rows.js';
import { auditAct } from '../audit/operator-act.js';
import { PlainError } from '../jobs/plain-words.js';
import { changeRows, readRows, UnusableStatement, type Outcome } from './one-statement.js';
import { onServers, type ServersDeps, type Site } from './on-servers.js';
import type { Known, RunFile } from './run-file.js';
import { selectTenants, type Selected } from './selected-tenants.js';
import type { StatementHooks, StatementMode, StatementReport, StatementWish } from './statement-wish.js';
import * as results from './tenant-results.js';
import type { ResultLine, Totals } from './tenant-results.js';

/** The longest part of a statement that the audit keeps, in characters, and the most tenants that it names. */
const AUDITED_TEXT = 2_000;
const AUDITED_TENANTS = 100;

export class StatementRun {
  /** Why everything stops: no database would accept the text, or the file takes no more lines. */
  #fatal: Error | undefined;
  readonly #stopping = new AbortController();
  readonly #signal: AbortSignal;
  readonly #guestsLeft = new Set<string>();

  constructor(
    private readonly deps: ServersDeps,
    private readonly wish: StatementWish,
    private readonly origin: AuditOrigin,
    private readonly hooks: StatementHooks,
    private readonly id: string,
    private readonly file: RunFile | undefined,
  ) {
    this.#signal = AbortSignal.any([wish.signal, this.#stopping.signal]);
  }

  async all(): Promise<StatementReport> {
    const selected = await selectTenants(this.deps.registry, this.wish.selection);
    const known = this.file?.known ?? new Map<string, Known>();
    const left = selected.tenants.filter(({ id }) => known.get(id)?.state !== 'done');
    const before = selected.tenants.length - left.length;
    const totals = results.noTotals(selected.tenants.length + selected.skipped.length, before);
    for (const { tenant, reason } of selected.skipped) await this.#tell(totals, results.skippedLine(tenant, reason));
    if (!this.wish.write) {
      await this.#audit('read', left.length);
      await this.#each(left, totals, 'read');
      return { totals, guestsLeft: [...this.#guestsLeft] };
    }
    return this.#write(selected, left, totals);
  }

  /** The tenants of an earlier run whose COMMIT got no answer are asked about first; then all are tried, and then changed. */
  async #write({ tenants }: Selected, left: readonly TenantRecord[], totals: Totals): Promise<StatementReport> {
    const unsure = left.filter(({ id }) => this.file?.known.get(id)?.state === 'unknown');
    const again = new Set(left.filter((tenant) => !unsure.includes(tenant)));
    if (unsure.length > 0)
      await this.#onServers(unsure, totals, async (tenant, site) => {
        if (await this.#settle(tenant, site, totals)) again.add(tenant);
      });
    const due = tenants.filter((tenant) => again.has(tenant));
    await this.#audit('dry-run', due.length);
    const dry = results.noTotals(due.length, 0);
    const able = new Set<string>();
    await this.#each(due, dry, 'dry-run', (line) => {
      if ('rows' in line) able.add(line.tenant);
      else if (!this.#signal.aborted) return this.#tell(totals, line);
      return undefined;
    });
    if (!this.#signal.aborted && able.size > 0) {
      await this.hooks.confirm(dry);
      await this.#audit('write', able.size);
      await this.#each(
        due.filter(({ id }) => able.has(id)),
        totals,
        'write',
      );
    }
    return { dry, totals, guestsLeft: [...this.#guestsLeft] };
  }

  /** @returns whether the tenant's earlier transaction was certainly not committed */
  async #settle(tenant: TenantRecord, { provisioner }: Site, totals: Totals): Promise<boolean> {
    const known = this.file?.known.get(tenant.id);
    if (known?.state !== 'unknown') return true;
    const { id, slug } = tenant;
    const { xid, affected } = known;
    // The guests of the earlier process were dropped, with their sessions, before this one was made.
    const status = await transactionStatus(provisioner.cluster, xid).catch(() => undefined);
    if (status === 'aborted') return true;
    const isDone = status === 'committed';
    await this.#tell(
      totals,
      isDone ? { tenant: id, slug, affected, rows: [], more: false } : { tenant: id, slug, unknown: xid, affected },
    );
    return false;
  }

  /** @param then instead of telling the line */
  async #each(
    tenants: readonly TenantRecord[],
    totals: Totals,
    mode: StatementMode,
    then?: (line: ResultLine) => Promise<void> | undefined,
  ): Promise<void> {
    this.hooks.begins(mode, tenants.length);
    const tell = async (line: ResultLine): Promise<void> => {
      if (!then) return this.#tell(totals, line);
      results.count(totals, line);
      this.hooks.line(line, true);
      await then(line);
    };
    await this.#onServers(
      tenants,
      totals,
      async (tenant, site) => {
        const line = await this.#lineOf(tenant, site, mode);
        if (line) await tell(line);
      },
      tell,
    );
    if (this.#fatal) throw this.#fatal;
  }

  /** @returns undefined if the statement was interrupted */
  async #lineOf(tenant: TenantRecord, site: Site, mode: StatementMode): Promise<ResultLine | undefined> {
    const { statement, limitRows } = this.wish;
    try {
      if (mode === 'read')
        return results.readLine(tenant, await site.visit(tenant, (session) => readRows(session, statement, limitRows)));
      const intent =
        mode === 'dry-run'
          ? undefined
          : (xid: string, affected: number): Promise<void> =>
              this.#put({ tenant: tenant.id, slug: tenant.slug, committing: xid, affected });
      const outcome = await site.visit(tenant, (session) => changeRows(session, statement, limitRows, intent));
      return results.changedLine(tenant, await this.#asked(outcome, tenant, site));
    } catch (error) {
      if (error instanceof Interrupted) return undefined;
      if (error instanceof UnusableStatement) {
        this.#stop(error);
        return undefined;
      }
      await site.suspect(error);
      return results.errorLine(tenant, error);
    }
  }

  /** If the answer to a COMMIT was lost, asks PostgreSQL what became of it, after the session is gone. */
  async #asked(outcome: Outcome, { dbName }: TenantRecord, { provisioner: { cluster } }: Site): Promise<Outcome> {
    if (outcome.state !== 'unknown') return outcome;
    const { xid, state: _unknown, ...changed } = outcome;
    let status: Awaited<ReturnType<typeof transactionStatus>>;
    try {
      for (const { name, run } of await listGuestRoles(cluster, this.deps.installation))
        if (run === this.id) await endGuestSessions(cluster, name, dbName);
      status = await transactionStatus(cluster, xid);
    } catch {
      return outcome;
    }
    if (status === 'aborted') throw new PlainError('the connection was lost, and nothing was changed');
    return status === 'committed' ? { state: 'done', ...changed } : outcome;
  }

  async #onServers(
    tenants: readonly TenantRecord[],
    totals: Totals,
    run: (tenant: TenantRecord, site: Site) => Promise<void>,
    tell = (line: ResultLine): Promise<void> => this.#tell(totals, line),
  ): Promise<void> {
    const { write: writes, atOnce, timeout } = this.wish;
    const wish = { run: this.id, writes, atOnce, timeout, signal: this.#signal };
    // The file may take no more lines, for example because the disk is full.
    const guarded = (work: Promise<void>): Promise<void> =>
      work.catch((error: unknown) => {
        this.#stop(error instanceof Error ? error : new Error('a line could not be written'));
      });
    const left = await onServers(this.deps, tenants, wish, {
      run: (tenant, site) => guarded(run(tenant, site)),
      fail: (tenant, error) => guarded(tell(results.errorLine(tenant, error))),
    });
    for (const place of left) this.#guestsLeft.add(place);
    if (this.#fatal) throw this.#fatal;
  }

  #stop(error: Error): void {
    this.#fatal ??= error;
    this.#stopping.abort();
  }

  async #tell(totals: Totals, line: ResultLine): Promise<void> {
    await this.#put(line);
    results.count(totals, line);
    this.hooks.line(line, false);
  }

  async #put(line: object): Promise<void> {
    try {
      await this.file?.write(line, this.wish.write);
    } catch (error) {
      throw new PlainError('the file takes no more lines', { cause: error });
    }
  }

  async #audit(mode: StatementMode, tenants: number): Promise<void> {
    if (tenants === 0) return;
    const { statement, selection } = this.wish;
    const text = statement.length > AUDITED_TEXT ? `${statement.slice(0, AUDITED_TEXT)}…` : statement;
    const named = selection.tenants?.slice(0, AUDITED_TENANTS);
    const details = {
      run: this.id,
      mode,
      statement: text,
      tenants,
      statuses: selection.statuses,
      ...(named && { named }),
      ...(selection.cluster && { cluster: selection.cluster.name }),
    };
    await this.deps.registry
      .transaction()
      .execute((trx) => auditAct(trx, { ...this.origin, action: 'statement.run', details }));
  }
}
