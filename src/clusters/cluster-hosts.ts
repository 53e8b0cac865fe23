// Which hosts may be registered as clusters. A registered host is connected to with a password, so only those that the
// configuration names are: whoever may register clusters cannot make the service knock on any other door.
import { BlockList, isIP } from 'node:net';

/**
 * Whether a host may be registered, told from its spelling alone: nothing is resolved and nothing is sent. A name is allowed
 * where it stands on the list itself, never for the addresses that it has just now, because what they are at the next look is
 * up to whoever answers for the name. A CIDR admits addresses only, and an address that is written in another way than the
 * usual one (`127.1`, `2130706433`) is a name that is on no list.
 *
 * @param entries names, addresses and CIDRs
 * @param defaultHost of the default cluster, which is allowed besides
 */
export function allowedHosts(entries: readonly string[], defaultHost: string): (host: string) => boolean {
  const names = new Set<string>();
  const addresses = new BlockList();
  for (const entry of [...entries, defaultHost]) {
    const [address = '', prefix] = entry.split('/');
    const family = isIP(address);
    if (family === 0) names.add(spelt(entry));
    else if (prefix === undefined) addresses.addAddress(address, family === 4 ? 'ipv4' : 'ipv6');
    else addresses.addSubnet(address, Number(prefix), family === 4 ? 'ipv4' : 'ipv6');
  }
  return (host) => {
    const family = isIP(host);
    return family === 0 ? names.has(spelt(host)) : addresses.check(host, family === 4 ? 'ipv4' : 'ipv6');
  };
}

/** The one spelling of a host, so that a server cannot be registered twice by writing it in two ways. */
export function canonicalHost(host: string): string {
  return isIP(host) === 6 ? new URL(`http://[${host}]`).hostname.slice(1, -1) : spelt(host);
}

/** Names are compared without their case and without the dot of the root. */
function spelt(name: string): string {
  return name.toLowerCase().replace(/\.$/, '');
}
