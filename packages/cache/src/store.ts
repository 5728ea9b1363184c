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
  /** The same without a promise of its own, for lookups come by the thousand. `said` is false when the store did not say. */
  ask(key: string, hear: Hear): void
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

/** Must not throw. */
export type Hear = (text: string | undefined, said: boolean) => void

/** Reads asked as one: enough to spread what a question costs, few enough that a large value holds up few others. */
const maxKeys = 32

/** Writes under way: beyond this the store is too slow for us, and the next ones are skipped. */
const maxWrites = 64
const maxWriteChars = 32 * 1024 * 1024

/** Nobody writes this one: the questions whether the store is back are about it. */
const probeKey = 'millrace:probe'

type Sort = 'read' | 'write'

/** What a call came to that brought nothing: no answer that counts, or one that cannot be read. */
const noAnswer: unique symbol = Symbol('no answer')
const unreadable: unique symbol = Symbol('unreadable')

/**
 * Puts a deadline, two breakers and a bound on writes around a store. While a breaker is open no call waits at all; it is
 * asked in the background whether the store is back, which is seen at most 0.4 s after it is.
 *
 * Two, for reads and for writes: a store may answer reads and let all writes hang (Redis under `CLIENT PAUSE 1000 WRITE`),
 * and its answers to reads must not bring the writes back. A read that fails counts for both. What a store refuses in time,
 * such as a write when it is out of memory, is an error and no reason to leave it alone.
 */
export function guardStore(store: Store, { timeoutMs, onError }: GuardOptions): GuardedStore {
  const limits = createTimeLimits(timeoutMs)
  const breakers: Readonly<Record<Sort, Breaker>> = {
    read: createBreaker(() => call('read', () => store.get(probeKey))),
    write: createBreaker(() => call('write', () => store.delete(probeKey)))
  }
  let keys: string[] = []
  let hearers: Hear[] = []
  let writes = 0
  let writeChars = 0
  let idle: PromiseWithResolvers<void> | undefined
  let errors = 0
  let skipped = 0
  let writesRefused = 0

  /** One call of the store: whatever comes of it passes here, is counted, and is told to `onError` if it is a failure. */
  function call(sort: Sort, work: () => unknown): Promise<unknown> {
    let asked: unknown
    try {
      asked = work()
    } catch (error) {
      asked = Promise.reject(error)
    }
    return (isThenable(asked) ? limits.within(asked) : Promise.resolve(asked)).then(
      (answer) => {
        breakers[sort].succeeded()
        return answer
      },
      (error: unknown) => failed(sort, error)
    )
  }

  function mayCall(sort: Sort): boolean {
    if (!breakers[sort].open) return true
    skipped++
    return false
  }

  function failed(sort: Sort, error: unknown): typeof noAnswer | typeof unreadable {
    const refused = isRefusal(error)
    // The store has answered with what Keyv could not parse: the fault of that one value.
    const answered = error instanceof SyntaxError
    if (refused && sort === 'write') writesRefused++
    if (refused || answered) {
      breakers[sort].succeeded()
    } else {
      breakers[sort].failed()
      if (sort === 'read') breakers.write.failed()
    }
    tell(error === late ? timeoutOf(timeoutMs) : error)
    return answered ? unreadable : noAnswer
  }

  function tell(failure: unknown): void {
    errors++
    const unheard = (): void => {
      errors++ // a listener that throws must not fail the call either
    }
    try {
      const answer: unknown = onError?.(failure)
      if (isThenable(answer)) answer.then(undefined, unheard)
    } catch {
      unheard()
    }
  }

  function ask(key: string, hear: Hear): void {
    if (!mayCall('read')) return hear(undefined, false)
    // Until `setImmediate` would gather more where each asker has an event of its own, but cost a lone one 3 us.
    if (keys.length === 0) process.nextTick(flush)
    keys.push(key)
    hearers.push(hear)
    if (keys.length === maxKeys) flush()
  }

  function flush(): void {
    if (keys.length === 0) return // the last ones were as many as go together
    const [asked, waiting] = [keys, hearers]
    keys = []
    hearers = []
    if (store.getMany !== undefined && asked.length > 1) askMany(store.getMany.bind(store), asked, waiting)
    else asked.forEach((key, at) => askOne(key, waiting[at] as Hear))
  }

  function askOne(key: string, hear: Hear): void {
    void call('read', () => store.get(key)).then((answer) => hear(textOf(answer), answer !== noAnswer))
  }

  function askMany(getMany: (keys: string[]) => unknown, asked: readonly string[], waiting: readonly Hear[]): void {
    void call('read', () => getMany([...asked])).then((values) => {
      // One of them cannot be read. Which one, each tells by itself.
      if (values === unreadable) return asked.forEach((key, at) => askOne(key, waiting[at] as Hear))
      const fits = Array.isArray(values) && values.length === asked.length
      if (!fits && values !== noAnswer) {
        // Nor of a store whose getMany is another's: each is asked for by itself.
        asked.forEach((key, at) => askOne(key, waiting[at] as Hear))
        return tell(
          new MillraceError('protocol', 'getMany of the store answered with something else', {
            details: { reason: 'unexpected' }
          })
        )
      }
      for (let at = 0; at < waiting.length; at++) waiting[at]?.(fits ? textOf(values[at]) : undefined, fits)
    })
  }

  function read(key: string): Promise<string | undefined> {
    return new Promise((resolve) => ask(key, resolve))
  }

  function readMany(many: readonly string[]): Promise<readonly (string | undefined)[] | undefined> {
    return new Promise((resolve) => {
      if (many.length === 0) return resolve([])
      const texts: (string | undefined)[] = []
      let missing = many.length
      let allSaid = true
      many.forEach((key, at) =>
        ask(key, (text, said) => {
          texts[at] = text
          allSaid &&= said
          if (--missing === 0) resolve(allSaid ? texts : undefined)
        })
      )
    })
  }

  async function put(key: string, text: string, ttlMs?: number): Promise<boolean> {
    if (!mayCall('write')) return false
    const answer = await call('write', () =>
      ttlMs === undefined ? store.set(key, text) : store.set(key, text, Math.ceil(ttlMs))
    )
    if (answer === false) {
      writesRefused++
      tell(new MillraceError('unavailable', 'the store answered false to a write', { details: {} }))
    }
    return answer !== false && answer !== noAnswer && answer !== unreadable
  }

  async function remove(key: string): Promise<boolean> {
    if (!mayCall('write')) return false
    return (await call('write', () => store.delete(key))) !== noAnswer
  }

  async function command(args: readonly string[]): Promise<{ readonly reply: unknown } | undefined> {
    if (!mayCall('write')) return undefined
    const reply = await call('write', () => store.command?.(args))
    return reply === noAnswer || reply === unreadable ? undefined : { reply }
  }

  return {
    read,
    ask,
    readMany,
    write(key, text, ttlMs) {
      if (writes >= maxWrites || writeChars + text.length > maxWriteChars) {
        skipped++
        return
      }
      writes++
      writeChars += text.length
      void put(key, text, ttlMs).then(() => {
        writeChars -= text.length
        if (--writes > 0) return
        idle?.resolve()
        idle = undefined
      })
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
      if (writes === 0) return
      idle ??= Promise.withResolvers()
      await idle.promise
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

function textOf(value: unknown): string | undefined {
  if (typeof value === 'string') return value
  return value === undefined || value === null || value === noAnswer ? undefined : ''
}

function timeoutOf(limitMs: number): MillraceError {
  return new MillraceError('timeout', `the store did not answer within ${limitMs} ms (storeTimeoutMs)`, {
    details: { clock: 'total', limitMs, elapsedMs: limitMs }
  })
}

function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof (value as { then?: unknown } | null | undefined)?.then === 'function'
}
