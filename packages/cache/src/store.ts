import { isMillraceError, MillraceError } from '@millrace/core'
import { type Breaker, createBreaker } from './store-breaker.ts'
import { createTimeLimits, late } from './time-limits.ts'

/**
 * What the second tier needs of a store: any Keyv, any Keyv storage adapter, even a `Map`. Values are strings, and lifetimes
 * are milliseconds; a store that ignores them still never serves an old entry, for the cache checks the age as well.
 */
export interface Store {
  get(key: string): unknown
  set(key: string, value: string, ttlMs?: number): unknown
  delete(key: string): unknown
  getMany?(keys: string[]): unknown
  /** Any command of Redis, as `createRedis()` has it. */
  command?(args: readonly string[]): unknown
  /** What stands before a key of `get` and `set` when `command` speaks of it. */
  readonly prefix?: string | undefined
  /** Told when a value came that was not asked for. */
  distrust?(): void
}

export interface GuardOptions {
  readonly timeoutMs: number
  readonly onError?: ((error: unknown) => void) | undefined
}

/** A store that cannot hurt its user: no call of it throws, hangs, or waits longer than the deadline. */
export interface GuardedStore {
  /**
   * What lies there; `undefined` when there is nothing, or the store did not say. The empty text stands for what is no text
   * or cannot be read at all: nobody wrote it through this guard, and it is best removed.
   */
  read(key: string): Promise<string | undefined>
  /** The same for many keys at once, under one deadline; `undefined` when the store did not say. */
  readMany(keys: readonly string[]): Promise<readonly (string | undefined)[] | undefined>
  /** Hands the text over and does not wait. Skipped while 64 writes or 32 Mi characters are under way. */
  write(key: string, text: string, ttlMs: number): void
  /** Writes and waits. False when the store did not take it, as far as it says so: Keyv 5 may say true to what was lost. */
  put(key: string, text: string, ttlMs?: number): Promise<boolean>
  /** True when the store did not fail: the key is gone. */
  remove(key: string): Promise<boolean>
  /**
   * A command, for stores that have them. `undefined` when the store did not answer or refused. It shares the fate of
   * writes: while they are given up, so are commands.
   */
  readonly command?: (args: readonly string[]) => Promise<{ readonly reply: unknown } | undefined>
  /** A value came that was not asked for: a store that can check its connection does. */
  distrust(): void
  /** For the end: resolves once the writes under way are over, at most one deadline from now, and asks after the store no more. */
  drain(): Promise<void>
  /** False while reads are given up: nobody waits. */
  readonly available: boolean
  /** Failures and refusals, and throws of `onError`. */
  readonly errors: number
  /** Calls that were not made: the store is away, or too many writes are under way. */
  readonly skipped: number
  /** Writes that the store answered with a refusal or with `false`, among the errors. */
  readonly writesRefused: number
}

/** Writes under way: beyond this the store is too slow for us, and the next ones are skipped. */
const maxWrites = 64
const maxWriteChars = 32 * 1024 * 1024

/** Nobody writes this one: the questions whether the store is back are about it. */
const probeKey = 'millrace:probe'

type Sort = 'read' | 'write'

/**
 * Puts a deadline, two breakers and a bound on writes around a store. While a breaker is open no call waits at all; it is
 * asked in the background whether the store is back, which is seen at most 0.4 s after it is.
 *
 * Two, for reads and for writes, because a Redis may answer reads and let all writes hang (`CLIENT PAUSE 1000 WRITE`). What
 * a store refuses in time, such as a write when it is out of memory, is an error and no reason to leave it alone.
 */
export function guardStore(store: Store, { timeoutMs, onError }: GuardOptions): GuardedStore {
  const limits = createTimeLimits(timeoutMs)
  const breakers: Readonly<Record<Sort, Breaker>> = {
    read: createBreaker(() => probe('read', () => store.get(probeKey))),
    write: createBreaker(() => probe('write', () => store.delete(probeKey)))
  }
  const writes = new Set<Promise<boolean>>()
  let writeChars = 0
  let errors = 0
  let skipped = 0
  let writesRefused = 0

  /** One call of the store. Every outcome passes here; a rejection is counted and told already. */
  async function call<T>(sort: Sort, work: () => T): Promise<Awaited<T>> {
    try {
      const asked = work()
      const result = await (isThenable(asked) ? limits.within(asked) : asked)
      answered(sort)
      return result as Awaited<T>
    } catch (error) {
      failed(sort, error)
      throw error
    }
  }

  async function probe(sort: Sort, work: () => unknown): Promise<void> {
    await call(sort, work).catch(told)
  }

  function mayCall(sort: Sort): boolean {
    if (!breakers[sort].open) return true
    skipped++
    return false
  }

  function answered(sort: Sort): void {
    breakers[sort].succeeded()
    if (sort === 'write') breakers.read.succeeded()
  }

  function failed(sort: Sort, error: unknown): void {
    const refused = isRefusal(error)
    if (refused && sort === 'write') writesRefused++
    if (refused || isUnreadable(error)) {
      answered(sort)
    } else {
      breakers[sort].failed()
      if (sort === 'read') breakers.write.failed()
    }
    tell(
      error === late
        ? new MillraceError('timeout', `the store did not answer within ${timeoutMs} ms (storeTimeoutMs)`, {
            details: { clock: 'total', limitMs: timeoutMs, elapsedMs: timeoutMs }
          })
        : error
    )
  }

  function tell(error: unknown): void {
    errors++
    try {
      onError?.(error)
    } catch {
      errors++ // a listener that throws must not fail the call either
    }
  }

  async function read(key: string): Promise<string | undefined> {
    if (!mayCall('read')) return undefined
    try {
      return textOf(await call('read', () => store.get(key)))
    } catch (error) {
      return isUnreadable(error) ? '' : undefined
    }
  }

  async function put(key: string, text: string, ttlMs?: number): Promise<boolean> {
    if (!mayCall('write')) return false
    try {
      const taken = await call('write', () => (ttlMs === undefined ? store.set(key, text) : store.set(key, text, Math.ceil(ttlMs))))
      if (taken !== false) return true
      writesRefused++
      tell(new MillraceError('unavailable', 'the store answered false to a write', { details: {} }))
    } catch {
      // told in `call`
    }
    return false
  }

  async function readMany(keys: readonly string[]): Promise<readonly (string | undefined)[] | undefined> {
    if (!mayCall('read')) return undefined
    try {
      const many = store.getMany === undefined ? getEach : store.getMany.bind(store)
      const values = await call('read', () => many([...keys]))
      if (Array.isArray(values) && values.length === keys.length) return values.map(textOf)
      tell(new MillraceError('protocol', 'getMany answered with something else', { details: { reason: 'unexpected' } }))
      store.distrust?.()
      return undefined
    } catch (error) {
      // One of them cannot be read: which one, each tells by itself.
      return isUnreadable(error) ? Promise.all(keys.map(read)) : undefined
    }
  }

  function getEach(keys: readonly string[]): unknown {
    return Promise.all(keys.map((key) => store.get(key)))
  }

  async function remove(key: string): Promise<boolean> {
    if (!mayCall('write')) return false
    return call('write', () => store.delete(key)).then(yes, no)
  }

  async function command(args: readonly string[]): Promise<{ readonly reply: unknown } | undefined> {
    if (!mayCall('write')) return undefined
    return call('write', () => store.command?.(args)).then((reply) => ({ reply }), nothing)
  }

  return {
    read,
    readMany,
    write(key, text, ttlMs) {
      if (writes.size >= maxWrites || writeChars + text.length > maxWriteChars) {
        skipped++
        return
      }
      writeChars += text.length
      const writing = put(key, text, ttlMs).finally(() => {
        writes.delete(writing)
        writeChars -= text.length
      })
      writes.add(writing)
    },
    put,
    remove,
    ...(typeof store.command === 'function' ? { command } : {}),
    distrust() {
      store.distrust?.()
    },
    async drain() {
      breakers.read.stop()
      breakers.write.stop()
      await Promise.all(writes)
    },
    get available() {
      return !breakers.read.open
    },
    get errors() {
      return errors
    },
    get skipped() {
      return skipped
    },
    get writesRefused() {
      return writesRefused
    }
  }
}

/** These words of Redis say that it is not there for us, in time as they come. */
const away: ReadonlySet<string> = new Set(['LOADING', 'MASTERDOWN', 'NOAUTH', 'CLUSTERDOWN', 'BUSY'])

/** The store has answered, by saying no. */
function isRefusal(error: unknown): boolean {
  if (!isMillraceError(error, 'unavailable')) return false
  const { providerCode } = error.details
  return providerCode !== undefined && !away.has(providerCode)
}

/** The store has answered with what Keyv could not parse: the fault of that one value. */
function isUnreadable(error: unknown): boolean {
  return error instanceof SyntaxError
}

function textOf(value: unknown): string | undefined {
  if (typeof value === 'string') return value
  return value === undefined || value === null ? undefined : ''
}

function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof (value as { then?: unknown } | null | undefined)?.then === 'function'
}

// For what `call` has told already.
const told = (): void => {}
const nothing = (): undefined => undefined
const yes = (): boolean => true
const no = (): boolean => false
