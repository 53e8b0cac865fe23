// Destinations: for each PostgreSQL server, by host and port, the connections of this process to it.
//
// After a failover connections can lead to the wrong server: to a standby, or to an address that the host's name no longer has.
// This is detected once for all pools, and every connection to that host and port is retired.
//
// A connection: opening → joined → retired (not handed out again, closed as soon as it is unused) → left.
import dns from 'node:dns';
import { isIP, Socket, type LookupFunction, type TcpSocketConnectOpts } from 'node:net';
import { within } from '../../src/lib/deadline.js';

/** Resolves a host's name to its addresses. @throws if there is no answer */
export type Resolver = (host: string) => Promise<readonly string[]>;

/**
 * - `read-only`: a server that accepted writes answered that it accepts none (25006).
 * - `address`: the server's address no longer belongs to the host's name.
 */
export type RetireReason = 'read-only' | 'address';

/** One open connection. */
export interface Member {
  /** The server's address; undefined when the socket is closed already. */
  readonly address: string | undefined;
  /** The process of PostgreSQL that it leads to, if its proof said that (db/driver/proof.ts). */
  readonly server?: string | undefined;
  readonly takesWrites?: boolean;
  /** Closes the connection as soon as it is unused. Until then it is not handed out again. */
  retire(): void;
}

export interface Retirement {
  readonly host: string;
  readonly port: number;
  readonly reason: RetireReason;
  /** How many connections were retired. */
  readonly connections: number;
}

/** A new connection. */
export interface Connected {
  /** `host:port`. */
  readonly place: string;
  readonly server: string;
}

export interface Destination {
  /** Grows when all connections are retired. A connection that was opening at that moment is used once only. */
  readonly generation: number;
  /** The process of PostgreSQL that all open connections lead to, or the last ones led to. Undefined if they lead to several. */
  readonly server: string | undefined;
  /** How often a new connection has led to another process than the connections before. */
  readonly serverChanges: number;
  /** Makes sockets that use the same resolver as the destinations; undefined leaves the resolving to the driver. */
  readonly stream: (() => Socket) | undefined;
  /** How long (ms) a new connection may live: the maximum age ± 20 %, at random. */
  lifetime(): number;
  /** Adds an open connection. Returns the function that removes it. */
  join(member: Member): () => void;
  /** A connection that accepted writes answered 25006. Retires every connection, unless that has just happened. */
  tookNoWrite(): void;
}

export interface Destinations {
  /** Returns the same object for the same place each time. */
  at(place: { readonly host: string; readonly port: number }): Destination;
  close(): void;
}

export interface DestinationsOptions {
  /** Milliseconds. */
  readonly maxAge: number;
  /** Replaces the system's resolver, also for new connections. */
  readonly resolve?: Resolver | undefined;
  readonly onRetire?: (retirement: Retirement) => void;
  /** Called with each new connection that accepts writes and whose process of PostgreSQL is known. */
  readonly onConnected?: (connected: Connected) => void;
}

/** Interval (ms) of the look-ups of a name. An answer that takes longer is ignored. */
const LOOK_UP_EVERY = 1_000;

/**
 * How many names are looked up at once. Each look-up takes one of libuv's threads until its answer, which is many seconds if no
 * name server answers. The same few threads hash passwords and look up names for new connections.
 */
const LOOK_UPS_AT_ONCE = 2;

/**
 * Pause (ms) between two retirements because of 25006. The pause doubles up to `longest`. After `longest` without 25006 it is
 * short again. Reason: a trigger in one adopted database can raise 25006 at each write, and must not cost its neighbours their
 * connections.
 */
const RETIRE_PAUSE = { first: 1_000, longest: 60_000 };

/** Share of the maximum age by which lifetimes differ, so that connections do not all end at the same moment. */
const JITTER = 0.2;

export function createDestinations(options: DestinationsOptions): Destinations {
  const known = new Map<string, NamedDestination>();
  const resolve = options.resolve ?? systemAddresses;
  /** Names that wait for their look-up, in order. */
  const due = new Set<string>();
  /** Names whose look-up is under way. */
  const asked = new Set<string>();

  const timer = setInterval(() => {
    for (const { host, isNamed, members } of known.values())
      if (isNamed && members.size > 0 && !asked.has(host)) due.add(host);
    lookUpNext();
  }, LOOK_UP_EVERY);
  timer.unref();

  function lookUpNext(): void {
    for (const host of due) {
      if (asked.size >= LOOK_UPS_AT_ONCE) return;
      due.delete(host);
      void lookUp(host);
    }
  }

  /** A failed or late look-up says nothing about the open connections, so it retires none. */
  async function lookUp(host: string): Promise<void> {
    asked.add(host);
    try {
      const answer = resolve(host).finally(() => {
        asked.delete(host);
        lookUpNext();
      });
      const addresses = new Set((await within(answer, LOOK_UP_EVERY, late)).map(canonical));
      if (addresses.size === 0) return;
      for (const destination of known.values()) if (destination.host === host) destination.keepOnly(addresses);
    } catch {
      // The next look-up follows within a second.
    }
  }

  return {
    at({ host, port }) {
      const key = `${host}:${port}`;
      let destination = known.get(key);
      if (!destination) {
        destination = new NamedDestination(host, port, options);
        known.set(key, destination);
      }
      return destination;
    },
    close() {
      clearInterval(timer);
      due.clear();
    },
  };
}

class NamedDestination implements Destination {
  generation = 0;
  readonly members = new Set<Member>();
  serverChanges = 0;
  #newest: string | undefined;
  /** Open connections by their server, also those that were retired and are still in use. */
  readonly #open = new Map<string, number>();
  /** Whether the host is a name rather than an address. */
  readonly isNamed: boolean;
  readonly stream: (() => Socket) | undefined;
  #retiredAt = -Infinity;
  #pause = RETIRE_PAUSE.first;

  constructor(
    readonly host: string,
    private readonly port: number,
    private readonly options: DestinationsOptions,
  ) {
    this.isNamed = isIP(host) === 0 && !host.startsWith('/');
    const { resolve } = options;
    if (resolve && this.isNamed) this.stream = () => new ResolvingSocket(resolve);
  }

  lifetime(): number {
    return this.options.maxAge * (1 - JITTER + 2 * JITTER * Math.random());
  }

  join(member: Member): () => void {
    this.members.add(member);
    this.#reached(member, 1);
    return () => {
      this.members.delete(member);
      this.#reached(member, -1);
    };
  }

  get server(): string | undefined {
    const [first = this.#newest, second] = this.#open.keys();
    return second === undefined ? first : undefined;
  }

  #reached({ server, takesWrites }: Member, more: 1 | -1): void {
    if (server === undefined) return;
    const open = (this.#open.get(server) ?? 0) + more;
    if (open > 0) this.#open.set(server, open);
    else this.#open.delete(server);
    if (more < 0) return;
    if (this.#newest !== undefined && this.#newest !== server) this.serverChanges += 1;
    this.#newest = server;
    if (takesWrites) this.options.onConnected?.({ place: `${this.host}:${this.port}`, server });
  }

  tookNoWrite(): void {
    const now = performance.now();
    const passed = now - this.#retiredAt;
    if (passed < this.#pause) return;
    this.#pause = passed > RETIRE_PAUSE.longest ? RETIRE_PAUSE.first : Math.min(this.#pause * 2, RETIRE_PAUSE.longest);
    this.#retiredAt = now;
    this.generation += 1;
    this.#retire([...this.members], 'read-only');
  }

  /** Retires the connections to other addresses. */
  keepOnly(addresses: ReadonlySet<string>): void {
    const elsewhere = [...this.members].filter(
      ({ address }) => address !== undefined && !addresses.has(canonical(address)),
    );
    if (elsewhere.length > 0) this.#retire(elsewhere, 'address');
  }

  #retire(members: readonly Member[], reason: RetireReason): void {
    // Removed, so that each is reported once: a connection in use until its statement ends would be counted again each second.
    for (const member of members) this.members.delete(member);
    for (const member of members) member.retire();
    const { host, port } = this;
    this.options.onRetire?.({ host, port, reason, connections: members.length });
  }
}

/** The address of the server that a client of pg is connected to; undefined when its socket is closed. */
export function addressOf(client: object): string | undefined {
  return (client as { readonly connection: { readonly stream: { readonly remoteAddress?: string } } }).connection.stream
    .remoteAddress;
}

async function systemAddresses(host: string): Promise<readonly string[]> {
  return (await dns.promises.lookup(host, { all: true })).map(({ address }) => address);
}

/** An address in the resolver's form. A socket can show an IPv4 address as IPv6, and a link-local one with its interface. */
function canonical(address: string): string {
  return address.replace(/^::ffff:(?=\d+\.)/i, '').replace(/%.*$/, '');
}

/** The driver passes a socket the host and the port, and cannot be given a resolver. */
class ResolvingSocket extends Socket {
  constructor(private readonly resolve: Resolver) {
    super();
  }

  override connect(...args: unknown[]): this {
    const [port, host] = args;
    if (typeof port !== 'number' || typeof host !== 'string') return super.connect(...(args as [TcpSocketConnectOpts]));
    const lookup: LookupFunction = (name, { all }, answer) => {
      this.resolve(name).then(
        (addresses) => {
          const found = addresses.map((address) => ({ address, family: isIP(address) }));
          if (all) answer(null, found);
          else answer(null, found[0]?.address ?? '', found[0]?.family);
        },
        (error: unknown) => {
          answer(error as NodeJS.ErrnoException, '');
        },
      );
    };
    return super.connect({ port, host, lookup });
  }
}

function late(): Error {
  return new Error('the name was not resolved in time');
}
