import {
  type ErrorCode,
  isJsonObject,
  isMillraceError,
  type Json,
  type JsonObject,
  MillraceError,
  nextBatch,
  parseJson,
  type SharedLog
} from '@millrace/core'
import type { Source } from './flight.ts'
import type { Stamps } from './groups.ts'
import { type Leases, type LedLease, whoever } from './leases.ts'
import type { Door } from './question.ts'
import type { Sealer } from './sealer.ts'

/** What one call across processes goes over. */
export interface Sharing {
  readonly leases: Leases
  readonly log: SharedLog
  readonly sealer: Sealer
  readonly namespace: string
  readonly leaseMs: number
}

export interface SharedCallOptions<T> {
  readonly key: string
  /** Whose credential the call is sent with. */
  readonly by: string
  readonly start: (signal: AbortSignal) => AsyncIterable<T>
  readonly door: Pick<Door<T>, 'encode' | 'decode' | 'isContent'>
  /** The items of an answer that another process has stored since we looked. */
  readonly stored: () => Promise<readonly T[] | undefined>
  /** The words of groups as they are now; undefined when the store does not say. */
  readonly current: (groups: readonly string[]) => Promise<Stamps | undefined>
  /** Nobody else's call is followed, and nothing that is stored is taken: whoever leads is deposed. */
  readonly anew: boolean
  /** Somebody in another process follows the call we make. */
  readonly onFollowed: () => void
  /** Nothing of another process' answer is handed over before its end. */
  readonly whole: boolean
  /** Where another process leads: false gives an empty run instead of following it. */
  readonly following: boolean
}

/** How this process came by its items. */
export type Role = 'leads' | 'follows' | 'found' | 'idle'

export interface SharedCall<T> {
  /** `stamps`: the words of our groups as they were before the call. */
  readonly source: (signal: AbortSignal, stamps: Stamps) => Source<T>
  /** Resolves as soon as it is sure who makes the call: for one who follows, with the first content. Never rejects. */
  readonly known: Promise<void>
  /** Whether what came is as new as our groups ask for, all of them: it may be kept under their words. */
  readonly keepable: boolean
  /** What it is now: one that follows may take over. */
  readonly role: Role | undefined
  /** The lease, where this process took it. */
  readonly lease: LedLease | undefined
  /** Tells those who follow how it ended, and lets go of the lease, or commits under it. Never rejects; call it once. */
  end(error: unknown, commit?: (lease: LedLease) => Promise<void>): Promise<void>
}

/** The text of one entry of the log. */
type Message =
  | { readonly stamps: Stamps }
  | { readonly items: readonly Json[] }
  | { readonly end: true }
  | { readonly error: JsonObject; readonly by: string }
  | { readonly gone: true }

/** Takeovers after leaders that died or gave up, before this process calls by itself. */
const maxTakeovers = 5

/**
 * A call that several processes share: the one that gets the lease makes it and writes what comes into the log, the others
 * read it there. When the leader dies, or gives up because nobody waits there, one of the others takes over, as long as
 * nothing of the dead leader's answer has been handed over; behind content it ends with `network`, as any broken stream.
 * A failure is shared, once: those who followed get it, whoever asks afterwards asks anew.
 */
export function shareCall<T>(sharing: Sharing, call: SharedCallOptions<T>): SharedCall<T> {
  const { leases, log, sealer, namespace, leaseMs } = sharing
  const { door, key, by, start } = call
  const { promise: known, resolve: tell } = Promise.withResolvers<void>()
  let role: Role | undefined
  let lease: LedLease | undefined
  let keepable = false
  let stamps: Stamps = {}
  let say: ((message: Message) => void) | undefined
  let finish: (() => Promise<void>) | undefined

  const logOf = (token: string): string => `${namespace}:s:${key}:${token}`
  const placeOf = (token: string, number: number): string => `log ${key} ${token} ${number}`

  function become(as: Role): void {
    role = as
    tell()
  }

  function open(led: LedLease, token: string): void {
    lease = led
    keepable = true
    const writer = log.write(logOf(token))
    let written = 0
    say = (message) => writer.append([sealer.seal(placeOf(token, written++), JSON.stringify(message))])
    finish = () => writer.end()
    // What it will be kept under: who asks after a group was forgotten must not follow a call from before.
    say({ stamps })
  }

  async function* run(signal: AbortSignal): AsyncGenerator<readonly T[], void, undefined> {
    let outdated: string | undefined = call.anew ? whoever : undefined
    for (let takeovers = 0; takeovers < maxTakeovers; takeovers++) {
      const taken = await leases.take(key, { onFollowed: call.onFollowed, instead: outdated })
      outdated = undefined
      if (taken === undefined) break // the store is away: each process for itself
      const { led, token } = taken
      if (led !== undefined) {
        const found = signal.aborted || call.anew ? undefined : await call.stored()
        // Nobody may be left to let go of it.
        if (signal.aborted || found !== undefined) void led.release()
        signal.throwIfAborted()
        if (found !== undefined) {
          become('found')
          yield found
          return
        }
        open(led, token)
        become('leads')
        yield* upstream(signal)
        return
      }
      signal.throwIfAborted()
      if (!call.following) return become('idle')
      // Told when it is sure: it may still take over.
      role = 'follows'
      // Not handed over before its first content: what comes of a takeover does not fit behind the head of another answer.
      let held: T[] | undefined = []
      try {
        for await (const items of follow(token, signal)) {
          if (held !== undefined) {
            for (const item of items) held.push(item)
            if (call.whole || !held.some(door.isContent)) continue
            tell()
          }
          yield held ?? items
          held = undefined
        }
        if (held !== undefined && held.length > 0) yield held
        return
      } catch (error) {
        signal.throwIfAborted()
        if (error instanceof Shared) throw error.cause
        if (held === undefined) throw isMillraceError(error, 'protocol') ? error : lostLeader(error)
        if (error === older) outdated = token
      }
    }
    signal.throwIfAborted()
    become('leads')
    keepable = true
    yield* upstream(signal)
  }

  async function* upstream(signal: AbortSignal): AsyncGenerator<readonly T[], void, undefined> {
    const items = start(signal)[Symbol.asyncIterator]()
    try {
      for (let batch = await nextBatch(items); batch !== undefined; batch = await nextBatch(items)) {
        share(batch)
        yield batch
      }
    } finally {
      await items.return?.()
    }
  }

  function share(batch: readonly T[]): void {
    if (say === undefined) return
    const items = batch.map(door.encode)
    if (items.every((item) => item !== undefined)) return say({ items })
    say({ gone: true })
    say = undefined
  }

  async function* follow(token: string, signal: AbortSignal): AsyncGenerator<readonly T[], void, undefined> {
    const watching = setInterval(() => void leases.watch(key), leaseMs / 3)
    void leases.watch(key)
    let read = 0
    try {
      for await (const texts of log.follow(logOf(token), { signal, isAlive: () => leases.holds(key, token) })) {
        const items: T[] = []
        for (const text of texts) {
          const message = parseJson(sealer.open(placeOf(token, read++), text) ?? '')
          if (!isJsonObject(message)) throw incomplete()
          if (isJsonObject(message.stamps)) {
            await check(message.stamps)
            continue
          }
          if (message.end === true) {
            if (items.length > 0) yield items
            return
          }
          // Refused for what is not ours: we see for ourselves.
          if (isJsonObject(message.error) && message.by !== by) throw incomplete()
          if (isJsonObject(message.error)) throw new Shared('', { cause: revive(message.error) })
          if (!Array.isArray(message.items)) throw incomplete()
          for (const each of message.items as readonly Json[]) {
            const item = door.decode(each)
            if (item === undefined) throw incomplete()
            items.push(item)
          }
        }
        if (items.length > 0) yield items
      }
      throw incomplete()
    } finally {
      clearInterval(watching)
    }
  }

  /**
   * A call from before one of our groups was forgotten is not ours to follow; one of other groups is not ours to keep. It
   * may be us who do not know yet: then processes would depose each other in turn.
   */
  async function check(theirs: JsonObject): Promise<void> {
    const all = Object.keys({ ...stamps, ...theirs })
    keepable = all.every((group) => theirs[group] === stamps[group])
    if (keepable) return
    const now = await call.current(all)
    if (now === undefined || Object.keys(theirs).some((group) => theirs[group] !== now[group])) throw older
  }

  return {
    source(signal, words) {
      stamps = words
      const batches = run(signal)
      return {
        async nextBatch() {
          try {
            const result = await batches.next()
            return result.done === true ? undefined : result.value
          } finally {
            tell() // whatever ends it before anything is known, nobody waits for ever
          }
        },
        return: () => batches.return()
      }
    },
    known,
    get role() {
      return role
    },
    get lease() {
      return lease
    },
    get keepable() {
      return keepable
    },
    async end(error, commit) {
      if (lease === undefined) return
      say?.(error === undefined ? { end: true } : farewell(error, by))
      // The end first: whoever finds the lease gone reads the log once more.
      await finish?.()
      await (commit ?? ((led) => led.release()))(lease)
    }
  }
}

/** What one follows was begun before a group of ours was forgotten. */
const older: unique symbol = Symbol('older')

/** A failure that came over the log: of the call itself, not of the way to it. */
class Shared extends Error {}

function incomplete(): MillraceError<'protocol'> {
  return new MillraceError('protocol', 'the answer of another process broke off', { details: { reason: 'incomplete' } })
}

function lostLeader(cause: unknown): MillraceError<'network'> {
  return new MillraceError('network', 'the process that made this call is gone', { details: { phase: 'body' }, cause })
}

/**
 * Our own errors hold no content and may be told; of others nothing is known, so whoever follows makes the call itself and
 * sees for itself.
 */
function farewell(error: unknown, by: string): Message {
  if (!isMillraceError(error) || error.code === 'closed') return { gone: true }
  const { code, message, details, context, retryable } = error
  return { error: JSON.parse(JSON.stringify({ code, message, details, context, retryable })) as JsonObject, by }
}

function revive({ code, message, details, context }: JsonObject): Error {
  if (typeof code !== 'string' || typeof message !== 'string' || !isJsonObject(details)) return incomplete()
  try {
    return new MillraceError(code as ErrorCode, message, {
      details,
      ...(isJsonObject(context) ? { context } : {})
    })
  } catch {
    return incomplete() // a code of a newer version
  }
}
