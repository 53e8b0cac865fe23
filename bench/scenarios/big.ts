// Lists of a large tenant: every sort with every filter, searches with and without a hit, and combinations. Also whether the time of
// a list depends on what was asked before on its connection, and what the indexes cost a write.
import { productSorts } from '../../db/tenant/product-queries.js';
import { userSorts } from '../../db/tenant/user-queries.js';
import { createPasswords, OPERATORS } from '../../src/auth/passwords.js';
import { median, medians } from '../figures/statistics.js';
import { BIG, fillBigTenant, measureWrites, OLD_CATEGORY, type Filled, type WriteCosts } from '../stage/big-tenant.js';
import { USER_PASSWORD } from '../stage/seed.js';
import { eachRound, mediansOf, wholeNumber, type Scenario } from './scenario.js';

/** The promise: the longest median (ms) of a list. */
const LIMIT = 100;

/** How often each list is asked. */
const ASKS = 5;

/** Filters of each list. A search of one or two characters has no index, so its time is shown and not promised. */
const FILTERS = {
  products: [
    '',
    'search=lamp',
    'search=brushed%20steel',
    `search=lamp%20${BIG.products - 1}`,
    'search=no-such-text',
    `search=${encodeURIComponent('не найти')}`,
    'active=true',
    'active=false',
    'category=category-7',
    `category=${OLD_CATEGORY}`,
    'category=none',
    'minPrice=999.9',
    'minPrice=500&maxPrice=500.5',
    'maxPrice=900',
    'maxStock=0',
    'maxStock=900',
    `category=${OLD_CATEGORY}&search=lamp`,
    `category=${OLD_CATEGORY}&search=no-such-text`,
    'active=false&search=lamp',
    `category=${OLD_CATEGORY}&active=false&minPrice=10&maxPrice=900&maxStock=500&search=lamp`,
  ],
  users: [
    '',
    'search=person-99',
    'search=person-99999%40',
    'search=no-such-text',
    'active=true',
    'active=false',
    'role=admin',
    'role=member',
    'role=manager',
    'role=admin&search=person',
    'role=member&active=false',
    'role=member&search=no-such-text',
  ],
} as const;

const SHORT = { products: 'search=zq', users: 'search=zq' } as const;

interface ListTimes {
  /** Of the slowest sort: the median and the longest, in ms. */
  readonly median: number;
  readonly longest: number;
  readonly sort: string;
  /** Of all sorts, in ms. */
  readonly usual: number;
}

interface BigRound {
  readonly lists: Readonly<Record<string, ListTimes>>;
  /** The common value after a rare one was asked, over the common value asked first. */
  readonly afterRare: number;
}

type Ask = (path: string) => Promise<{ readonly ms: number; readonly next: string | null }>;

export const big: Scenario<'big'> = {
  name: 'big',
  what: `lists of a tenant with ${wholeNumber(BIG.products)} products and ${wholeNumber(BIG.users)} users`,
  rounds: 1,

  async run(bench) {
    const stage = await bench.stages.fleet();
    const { tenant, cluster } = await stage.loner();
    const passwordHash = await createPasswords(1).hash(USER_PASSWORD, OPERATORS);
    const [reader] = tenant.users;
    if (!reader) throw new Error('the tenant has no user');
    const filled = await cluster.asSuperuser((db) => fillBigTenant(db, passwordHash, reader.email), tenant.database);
    const rounds = await eachRound<BigRound>(bench, this.name, async (_round, tell) => {
      // One connection, so that all requests share what it has prepared.
      const inService = <T>(work: (ask: Ask) => Promise<T>): Promise<T> =>
        stage.withService({ POOL_MAX: '1' }, ({ url }) => work(asking(url, reader.token)));
      const lists = await inService(async (ask) => {
        const times: [string, ListTimes][] = [];
        for (const [list, sorts] of [
          ['products', productSorts],
          ['users', userSorts],
        ] as const)
          for (const filter of [...FILTERS[list], SHORT[list]]) {
            tell(`/${list}?${filter}`);
            times.push([`/${list}?${filter}`, await timesOf(ask, `/${list}?${filter}`, Object.keys(sorts))]);
          }
        return Object.fromEntries(times);
      });
      tell('common values after rare ones');
      const alone = await inService((ask) => askOften(ask, '/products?category=category-7'));
      const after = await inService(async (ask) => {
        await askOften(ask, `/products?category=${OLD_CATEGORY}`);
        return askOften(ask, '/products?category=category-7');
      });
      return { lists, afterRare: after / alone };
    });
    const writes = await cluster.asSuperuser(measureWrites, tenant.database);
    return reportOf(this, bench, rounds, filled, writes);
  },
};

function asking(url: string, token: string): Ask {
  return async (path) => {
    const begun = performance.now();
    const response = await fetch(url + path, { headers: { authorization: `Bearer ${token}` } });
    const text = await response.text();
    const ms = performance.now() - begun;
    if (response.status !== 200) throw new Error(`GET ${path} answers ${response.status}: ${text}`);
    return { ms, next: (JSON.parse(text) as { nextCursor: string | null }).nextCursor };
  };
}

async function askOften(ask: Ask, path: string): Promise<number> {
  const times: number[] = [];
  for (let n = 0; n < 4 * ASKS; n += 1) times.push((await ask(path)).ms);
  return median(times.slice(ASKS));
}

/** Asks for the first and the second page in every order. */
async function timesOf(ask: Ask, path: string, sorts: readonly string[]): Promise<ListTimes> {
  const all: (ListTimes & { readonly times: readonly number[] })[] = [];
  for (const sort of sorts.flatMap((name) => [name, `-${name}`])) {
    const times: number[] = [];
    for (let n = 0; n < ASKS; n += 1) {
      const page = `${path}&sort=${sort}`;
      const { ms, next } = await ask(page);
      times.push(ms);
      if (next !== null) times.push((await ask(`${page}&cursor=${next}`)).ms);
    }
    const middle = median(times);
    all.push({ median: middle, longest: Math.max(...times), sort, usual: middle, times });
  }
  const [slowest] = all.toSorted((one, other) => other.median - one.median);
  if (!slowest) throw new Error('the list has no sort');
  const { times: _times, ...shown } = slowest;
  return {
    ...shown,
    usual: median(all.map((each) => each.median)),
  };
}

function reportOf(
  { name, what }: Pick<Scenario<'big'>, 'name' | 'what'>,
  bench: Parameters<Scenario['run']>[0],
  rounds: readonly BigRound[],
  filled: Filled,
  writes: WriteCosts,
): Awaited<ReturnType<Scenario<'big'>['run']>> {
  const [first] = rounds;
  if (!first) throw new Error('nothing was measured');
  const afterRare = median(rounds.map((round) => round.afterRare));
  const lists = Object.keys(first.lists).map((list) => {
    const times = rounds.flatMap((round) => round.lists[list] ?? []);
    const { median: slowest, longest, usual } = medians(times.map(({ sort: _sort, ...numbers }) => numbers));
    return { list, slowest, longest, usual, sort: times[0]?.sort ?? '' };
  });
  const promised = lists.filter(({ list }) => !Object.entries(SHORT).some(([of, short]) => list === `/${of}?${short}`));
  return {
    name,
    what,
    rounds,
    median: { lists, afterRare, writes, filled },
    table: {
      caption:
        `${mediansOf(bench)}; ${wholeNumber(BIG.products)} products, ${wholeNumber(BIG.users)} users; one connection; ` +
        `${ASKS} times the first and the second page in every order`,
      headings: ['scenario', 'list', 'p50 ms', 'slowest order: p50 ms', 'longest ms', 'its order', ''],
      rows: [
        ...lists.map(({ list, usual, slowest, longest, sort }) => [
          name,
          list,
          usual.toFixed(1),
          slowest.toFixed(1),
          longest.toFixed(1),
          sort,
          slowest > LIMIT ? `over ${LIMIT} ms` : '',
        ]),
        [name, 'a common category after a rare one, over alone', afterRare.toFixed(2), '', '', '', ''],
        [name, 'a create with the indexes, over without', writes.create.toFixed(2), '', '', '', ''],
        [name, 'an update with the indexes, over without', writes.update.toFixed(2), '', '', '', ''],
      ],
    },
    warnings: [
      `${name}: the index for searches of products took ${filled.indexing.toFixed(0)} s and ${filled.index.toFixed(0)} MiB; the table has ${filled.table.toFixed(0)} MiB.`,
    ],
    failures: promised
      .filter(({ slowest }) => slowest > LIMIT)
      .map(({ list, slowest, sort }) => `${list}&sort=${sort} takes ${slowest.toFixed(0)} ms, more than ${LIMIT}.`),
  };
}
