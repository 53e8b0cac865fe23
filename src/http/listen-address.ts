// Addresses to listen on: whether this process can have one, and if not, a sentence that says what to do.
import { createServer } from 'node:net';

export interface ListenAddress {
  readonly host: string;
  readonly port: number;
  /** What the names of its variables begin with: `''` for HOST and PORT, `METRICS_` for those of the metrics. */
  readonly prefix: '' | 'METRICS_';
}

/** This process cannot listen at an address. The message is the sentence that the person who starts the service reads. */
export class AddressError extends Error {
  constructor(cause: NodeJS.ErrnoException, address: ListenAddress) {
    super(sentence(cause, address), { cause });
    this.name = 'AddressError';
  }
}

/** The error of a failed `listen`, as a sentence. Any other error is returned unchanged. */
export function addressError(error: unknown, address: ListenAddress): unknown {
  const { syscall = '' } = error as NodeJS.ErrnoException;
  const failed = error instanceof Error && ['listen', 'bind', 'getaddrinfo'].includes(syscall);
  return failed ? new AddressError(error, address) : error;
}

/**
 * Listens at the address for a moment. So a wrong address is found before anything is made. Another program can still take the
 * port until the service listens there.
 *
 * @throws AddressError
 */
export async function checkAddress(address: ListenAddress): Promise<void> {
  const { host, port } = address;
  await new Promise<void>((resolve, reject) => {
    const probe = createServer();
    probe.once('error', (error) => {
      reject(new AddressError(error, address));
    });
    probe.listen({ host, port, exclusive: true }, () => {
      probe.close(() => {
        resolve();
      });
    });
  });
}

function sentence({ code = '' }: NodeJS.ErrnoException, { host, port, prefix }: ListenAddress): string {
  const [HOST, PORT] = [`${prefix}HOST`, `${prefix}PORT`];
  if (code === 'EADDRINUSE')
    return `${PORT}: another program listens on port ${port} of ${host}. Stop it, or set ${PORT} to another port.`;
  if (code === 'EACCES')
    return `${PORT}: this user may not listen on port ${port}. Set ${PORT} to a port of 1024 or more.`;
  if (['EADDRNOTAVAIL', 'ENOTFOUND', 'EAI_AGAIN', 'EAFNOSUPPORT', 'EINVAL'].includes(code))
    return `${HOST}: this machine has no address ${host}. Set ${HOST} to 127.0.0.1, or to 0.0.0.0 for all addresses.`;
  return `${PORT}: cannot listen on port ${port} of ${host} (${code}).`;
}
