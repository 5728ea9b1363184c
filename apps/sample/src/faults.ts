import { MillraceError } from '@millrace/core'
import type { FreezableProxy } from './freezable-proxy.ts'

export type ProviderFault = 'none' | 'slow' | 'rate-limit' | 'reset'
export type RedisFault = 'none' | 'frozen'

export interface FaultState {
  readonly provider: ProviderFault
  readonly redis: RedisFault
  /** What can be switched on here; empty where faults are off. */
  readonly available: { readonly provider: readonly ProviderFault[]; readonly redis: readonly RedisFault[] }
}

/** Faults that a visitor may inject, to watch what becomes of calls. */
export interface Faults {
  state(): FaultState
  /** @throws {MillraceError} `invalid-request` for what is not available */
  set(wanted: { readonly provider?: unknown; readonly redis?: unknown }): Promise<void>
}

export interface FaultyParts {
  /** The embedded provider, which does the faults itself. */
  readonly provider?: { setFault(name: ProviderFault): Promise<void> } | undefined
  /** What stands between the gateway and its Redis. */
  readonly redis?: FreezableProxy | undefined
}

const providerFaults: readonly ProviderFault[] = ['none', 'slow', 'rate-limit', 'reset']
const redisFaults: readonly RedisFault[] = ['none', 'frozen']

export function createFaults({ provider, redis }: FaultyParts): Faults {
  const available = { provider: provider === undefined ? [] : providerFaults, redis: redis === undefined ? [] : redisFaults }
  let providerFault: ProviderFault = 'none'

  return {
    state: () => ({ provider: providerFault, redis: redis?.frozen === true ? 'frozen' : 'none', available }),
    async set(wanted) {
      const toProvider = oneOf(available.provider, 'provider', wanted.provider)
      const toRedis = oneOf(available.redis, 'redis', wanted.redis)
      if (toRedis === 'frozen') redis?.freeze()
      else if (toRedis === 'none') redis?.thaw()
      if (toProvider === undefined) return
      await provider?.setFault(toProvider)
      providerFault = toProvider
    }
  }
}

function oneOf<F extends string>(available: readonly F[], path: string, wanted: unknown): F | undefined {
  if (wanted === undefined) return undefined
  const found = available.find((fault) => fault === wanted)
  if (found !== undefined) return found
  const there = available.length === 0 ? 'there are no faults to switch here' : `it is one of ${available.join(', ')}`
  throw new MillraceError('invalid-request', `${path}: ${there}`, { details: { path } })
}
