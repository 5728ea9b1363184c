import { randomBytes } from 'node:crypto'
import { MillraceError } from '@millrace/core'

/**
 * What the second tier needs of a store: any Keyv, any Keyv storage adapter, even a `Map`. Values are strings, and lifetimes
 * are milliseconds; a store that ignores them still never serves an old entry, for the cache checks the age as well.
 */
export interface Store {
  get(key: string): unknown
  set(key: string, value: string, ttlMs?: number): unknown
  delete(key: string): unknown
}

export interface GuardOptions {
  readonly namespace: string
  readonly timeoutMs: number
  /** Milliseconds on a clock that never jumps. */
  readonly now: () => number
  /** The store says that the namespace was cleared, by this process or another. */
  readonly onCleared: () => void
  readonly onError: ((error: unknown) => void) | undefined
}

/** A store that cannot hurt its user: no call of it throws, hangs, or waits longer than the deadline. */
export interface GuardedStore {
  /** What lies there, or `undefined`: nothing, or the store did not say. */
  read(key: string): Promise<unknown>
  /** Hands the text over and does not wait. */
  write(key: string, text: string, ttlMs: number): void
  remove(key: string): void
  /** Leaves every entry of the namespace behind. @throws {MillraceError} `unavailable` when the store did not take it */
  clear(): Promise<void>
  /** Resolves once the writes under way have ended, at most one deadline from now. */
  drain(): Promise<void>
  readonly errors: number
  readonly skipped: number
}

/** Failures in a row after which the store is left alone, and for how long. */
const maxFailures = 3
const restMs = 1000
/** How long another process' clear may go unseen here. */
const generationMs = 1000
/** Writes under way: beyond this the store is too slow for us, and the next ones are skipped. */
const maxWrites = 64
const maxWriteChars = 32 * 1024 * 1024

/**
 * Puts a deadline, a breaker and a bound on writes around a store. While the breaker is open no call waits at all: once a
 * second one probe asks the store in the background, and the first answer closes the breaker.
 *
 * Keys are `namespace:generation:key`. The generation is a random word in the store under `namespace:generation`; clearing
 * replaces it. So a clear costs one write, however many entries there are, and never touches a key of anybody else.
 */
export function guardStore(store: Store, { namespace, timeoutMs, now, onCleared, onError }: GuardOptions): GuardedStore {
  const generationKey = `${namespace}:generation`
  let generation: string | undefined
  let readGenerationAt = Number.NEGATIVE_INFINITY
  let reading: Promise<void> | undefined
  let errors = 0
  let skipped = 0
  let failures = 0
  let restUntil = 0
  let probing = false
  let writeChars = 0
  const writes = new Set<Promise<void>>()

  /** One call of the store. Every failure passes here, is counted, and reaches our own callers as a rejection. */
  async function call(work: () => unknown): Promise<unknown> {
    try {
      const result = await within(timeoutMs, work)
      failures = 0
      return result
    } catch (error) {
      errors++
      if (++failures >= maxFailures) restUntil = now() + restMs
      try {
        onError?.(error)
      } catch {
        errors++ // a listener that throws must not fail the call either
      }
      throw error
    }
  }

  async function put(key: string, text: string, ttlMs?: number): Promise<void> {
    await call(async () => {
      // Keyv says false for a write that failed.
      if ((await store.set(key, text, ttlMs)) === false) throw new Error('the store answered false to a write')
    })
  }

  function available(): boolean {
    if (failures < maxFailures) return true
    skipped++
    if (now() >= restUntil && !probing) {
      probing = true
      readGeneration()
        .catch(counted)
        .finally(() => {
          probing = false
        })
    }
    return false
  }

  function readGeneration(): Promise<void> {
    reading ??= findGeneration().finally(() => {
      reading = undefined
    })
    return reading
  }

  async function findGeneration(): Promise<void> {
    const found = await call(() => store.get(generationKey))
    if (typeof found === 'string' && /^[0-9a-f]{16}$/.test(found)) return adopt(found)
    // Missing, perhaps evicted. A new one, not a first one: what was cleared must not come back.
    const fresh = newGeneration()
    await put(generationKey, fresh)
    adopt(fresh)
  }

  function adopt(found: string): void {
    readGenerationAt = now()
    if (generation !== undefined && generation !== found) onCleared()
    generation = found
  }

  const entryKey = (key: string): string => `${namespace}:${generation}:${key}`

  async function find(key: string): Promise<unknown> {
    if (generation === undefined) await readGeneration()
    const asked = generation
    const entry = call(() => store.get(entryKey(key)))
    if (now() - readGenerationAt < generationMs) return entry
    const [found] = await Promise.all([entry, readGeneration()])
    return asked === generation ? found : undefined
  }

  async function write(key: string, text: string, ttlMs: number): Promise<void> {
    try {
      if (generation === undefined) await readGeneration()
      await put(entryKey(key), text, Math.ceil(ttlMs))
    } catch {
      // counted in `call`
    } finally {
      writeChars -= text.length
    }
  }

  return {
    async read(key) {
      if (!available()) return undefined
      try {
        return await find(key)
      } catch {
        return undefined // counted in `call`: a store that fails is a miss
      }
    },
    write(key, text, ttlMs) {
      if (!available()) return
      if (writes.size >= maxWrites || writeChars + text.length > maxWriteChars) {
        skipped++
        return
      }
      writeChars += text.length
      const writing = write(key, text, ttlMs).finally(() => writes.delete(writing))
      writes.add(writing)
    },
    remove(key) {
      if (available()) call(() => store.delete(entryKey(key))).catch(counted)
    },
    async clear() {
      const fresh = newGeneration()
      try {
        await put(generationKey, fresh)
        // Some adapters resolve a write that failed: only what can be read back is there.
        if ((await call(() => store.get(generationKey))) !== fresh) throw new Error('the store holds another generation')
      } catch (cause) {
        throw new MillraceError('unavailable', 'the store did not take the clear; call clear() again', { details: {}, cause })
      }
      adopt(fresh)
    },
    async drain() {
      await Promise.all(writes)
    },
    get errors() {
      return errors
    },
    get skipped() {
      return skipped
    }
  }
}

/** For a rejection that `call` has counted already. */
function counted(): void {}

function newGeneration(): string {
  return randomBytes(8).toString('hex')
}

async function within(timeoutMs: number, work: () => unknown): Promise<unknown> {
  const { promise: late, reject } = Promise.withResolvers<never>()
  let check: NodeJS.Immediate | undefined
  // After a blocked event loop, timers run before the sockets are read: let an answer that is already there be seen first.
  const timer = setTimeout(() => {
    check = setImmediate(() => reject(new Error(`the store did not answer within ${timeoutMs} ms (storeTimeoutMs)`)))
  }, timeoutMs)
  try {
    return await Promise.race([work(), late])
  } finally {
    clearTimeout(timer)
    clearImmediate(check)
  }
}
