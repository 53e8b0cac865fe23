// Which hosts may be registered as clusters. The service sends a password to a registered host. So only hosts that the
// configuration names are allowed: an operator who may register clusters cannot make the service connect to any other host.
import { BlockList, isIP } from 'node:net';

/**
 * Decides by the spelling alone whether a host may be registered: nothing is resolved and nothing is sent. A name is allowed only
 * if the name itself is on the list. The addresses of a name do not count: the owner of the name can change them at any time. A
 * CIDR admits addresses only. An address in an unusual spelling (`127.1`, `2130706433`) counts as a name, and is on no list.
 *
 * @param entries names, addresses and CIDRs
 * @param defaultHost the host of the default cluster, which is always allowed
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

/** The canonical spelling of a host, so that a server cannot be registered twice under two spellings. */
export function canonicalHost(host: string): string {
  return isIP(host) === 6 ? new URL(`http://[${host}]`).hostname.slice(1, -1) : spelt(host);
}

/** Names are compared without case and without the trailing dot of the root. */
function spelt(name: string): string {
  return name.toLowerCase().replace(/\.$/, '');
}
