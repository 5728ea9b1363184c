import { checkoutCache } from './build-once.ts'
import { findProgram, type Program } from './debian-package.ts'

/**
 * Finds a `redis-server`: named by `REDIS_SERVER`, on the PATH, or unpacked from Debian's packages.
 *
 * @throws {Error} that says why there is none and how to get one
 */
export function findRedisProgram(cache: string = checkoutCache()): Promise<Program> {
  return findProgram(
    {
      name: 'redis-server',
      variable: 'REDIS_SERVER',
      packages: ['redis-server', 'redis-tools'],
      folder: 'redis',
      cure: 'install one (Debian: apt-get install redis-server, macOS: brew install redis) or set REDIS_SERVER to its path'
    },
    cache
  )
}
