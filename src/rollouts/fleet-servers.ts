// The servers of the fleet, as the migration enters them. One that fails is left out from then on: waiting for it once for each of
// its tenants would delay the others.
import type { TenantRecord } from '../../db/registry/tenant-queries.js';
import { pingServer } from '../../db/server/cluster-inspection.js';
import { DatabaseFault } from '../../db/driver/database-fault.js';
import type { Place, PlacedProvisioner } from '../clusters/provisioners.js';
import { placeOf } from '../clusters/server-looks.js';

/** A server, entered as the role that owns the databases there. */
export interface FleetServer extends Pick<PlacedProvisioner, 'cluster' | 'inDatabase' | 'role'> {
  /** How many of its databases are migrated at once: each takes a connection of the cluster's reserve. */
  readonly atOnce: number;
}

/** A registered cluster other than the default one, or why it cannot be entered. */
export type OtherCluster = { readonly place: Place } & (
  { readonly server: FleetServer } | { readonly server?: undefined; readonly error: unknown }
);

export interface FailedCluster {
  /** `host:port`. */
  readonly cluster: string;
  readonly error: unknown;
}

type At = Pick<TenantRecord, 'dbHost' | 'dbPort'>;

export class FleetServers {
  readonly #servers = new Map<string, FleetServer>();
  readonly #failed = new Map<string, unknown>();

  /** @param own the server of the default cluster, and of tenants whose place is no registered cluster */
  constructor(
    private readonly own: FleetServer,
    private readonly ownPlace: Place | undefined,
    others: readonly OtherCluster[],
  ) {
    for (const other of others)
      if (other.server) this.#servers.set(nameOf(other.place), other.server);
      else this.#failed.set(nameOf(other.place), other.error);
  }

  get failed(): readonly FailedCluster[] {
    return [...this.#failed].map(([cluster, error]) => ({ cluster, error }));
  }

  /** The server of a tenant; undefined if it has failed. */
  of({ dbHost: host, dbPort: port }: At): FleetServer | undefined {
    const name = nameOf({ host, port });
    if (this.#failed.has(name)) return undefined;
    const server = this.#servers.get(name) ?? this.own;
    return server === this.own && this.#failed.has(this.#nameOfOwn) ? undefined : server;
  }

  /** The server at a place. @throws the error with which it has failed */
  at({ host: dbHost, port: dbPort }: Place): FleetServer {
    const server = this.of({ dbHost, dbPort });
    if (server) return server;
    const name = nameOf({ host: dbHost, port: dbPort });
    throw this.#failed.get(name) ?? this.#failed.get(this.#nameOfOwn);
  }

  /** Leaves out the server at a place from now on. */
  fail({ host: dbHost, port: dbPort }: Place, error: unknown): void {
    if (!this.of({ dbHost, dbPort })) return;
    const name = nameOf({ host: dbHost, port: dbPort });
    this.#failed.set(this.#servers.has(name) ? name : this.#nameOfOwn, error);
  }

  /**
   * Works on all servers side by side.
   *
   * @returns the results of those that did not fail
   */
  async onEach<T>(work: (server: FleetServer, place: Place | undefined) => Promise<T>): Promise<readonly T[]> {
    const servers = [[this.#nameOfOwn, this.own] as const, ...this.#servers];
    const results = await Promise.all(
      servers.map(async ([name, server]) => {
        if (this.#failed.has(name)) return [];
        try {
          return [await work(server, server === this.own ? this.ownPlace : placeOf(name))];
        } catch (error) {
          this.#failed.set(name, error);
          return [];
        }
      }),
    );
    return results.flat();
  }

  /** After an error of a tenant's database: if nothing was answered, asks whether the whole server has failed. */
  async suspect(server: FleetServer, error: unknown): Promise<void> {
    if (!(error instanceof DatabaseFault) || error.answered) return;
    try {
      await pingServer(server.cluster);
    } catch (answer) {
      const [name] = [...this.#servers].find(([, each]) => each === server) ?? [this.#nameOfOwn];
      this.#failed.set(name, answer);
    }
  }

  get #nameOfOwn(): string {
    return this.ownPlace ? nameOf(this.ownPlace) : 'default';
  }
}

function nameOf({ host, port }: Place): string {
  return `${host}:${port}`;
}
