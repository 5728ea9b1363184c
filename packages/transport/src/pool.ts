import type { MillraceError } from '@millrace/core'
import { createConnector } from './connector.ts'
import { Origin, type OriginOptions, type OriginStats } from './origin.ts'

export interface PoolOptions extends OriginOptions {
  readonly ca: string | readonly string[] | undefined
  readonly proxy: string | false | undefined
}

export interface Pool {
  origin(name: string): Origin
  stats(): Readonly<Record<string, OriginStats>>
  /** Resolves when nothing runs and nobody waits. To be called once nothing new comes in. */
  drained(): Promise<void>
  /** Ends what still runs or waits with `error`, and closes every socket, also those on their way. */
  destroy(error: MillraceError): void
}

/** More are known only while all of them are in use. Redirects and users of a gateway may name any number. */
const maxOrigins = 1000

/** One `Origin` for each scheme, host and port. */
export function createPool(options: PoolOptions): Pool {
  const origins = new Map<string, Origin>()
  const { http2, ca, proxy } = options
  const connector = createConnector({ http2, ...(ca === undefined ? {} : { ca }), ...(proxy === undefined ? {} : { proxy }) })
  let drained: PromiseWithResolvers<void> | undefined

  const changed = (): void => {
    if (drained !== undefined && isIdle()) drained.resolve()
  }
  const isIdle = (): boolean => [...origins.values()].every(({ idle }) => idle)

  /** Of those nobody uses now, the one that has been known for the longest time. */
  function forgetOne(): void {
    for (const [name, origin] of origins) {
      if (!origin.idle) continue
      origins.delete(name)
      origin.close(new Error('forgotten'))
      return
    }
  }

  return {
    origin(name) {
      let origin = origins.get(name)
      if (origin === undefined) {
        if (origins.size >= maxOrigins) forgetOne()
        origins.set(name, (origin = new Origin(name, connector, options, changed)))
      }
      return origin
    },
    stats: () => Object.fromEntries([...origins].map(([name, origin]) => [name, origin.stats()])),
    async drained() {
      while (!isIdle()) {
        drained = Promise.withResolvers<void>()
        // Asked again: who has lost its request with an idle socket has sent it anew by now.
        await drained.promise
      }
    },
    destroy(error) {
      for (const origin of origins.values()) origin.close(error)
    }
  }
}
