import {
  type CallOptions,
  type ChatRequest,
  type Chunk,
  type ChunkIterator,
  checkOptions,
  type Facts,
  type Layer,
  type Provider
} from '@millrace/core'
import type { Answer } from './answer.ts'
import { ask } from './asking.ts'
import { type Cache, type CacheInner, inner } from './cache.ts'
import { chat, type Refusal, revive } from './chat.ts'
import { keyOf } from './key.ts'
import { itemsOf, Noted } from './noted.ts'
import { type CacheCallOptions, checkCall } from './options.ts'
import { copyOf } from './plain.ts'
import { type Leaving, once, type Reply } from './question.ts'
import { replay } from './replay.ts'

export interface WithCacheOptions {
  /** Who answers below this layer: a base URL, or a name of your own for a list of providers. Part of every key. */
  readonly origin: string
  /**
   * What the calls below are sent with, such as the API key: callers with another one share no answers, unless the cache
   * has a `scope`. Only an HMAC of it gets into a key. A function keeps it out of logs.
   * @default '': all who use this layer share
   */
  readonly credential?: string | (() => string) | undefined
}

/**
 * A layer that answers equal requests from the cache, and equal requests at the same time with one upstream call. Every
 * stream tells in a note what happened: `state` is `hit` or `stale` (with `ageMs`), `joined`, `miss`, or `bypass` (with
 * `reason`: `asked`, `not-eligible`, `no-key`, `closed`). A hit is a legal stream with the same content; usage
 * of all but a miss is not billed.
 *
 * Only complete, valid answers are stored: finished by `stop` or `tool-calls`, with tool arguments that parse. Requests
 * for several choices (`extra.n` above 1) go past the cache, unless `eligible` says otherwise.
 *
 * An upstream call that is shared runs under the first asker's options: `firstChunkMs` and `idleMs` of those who join it
 * are ignored, their signal and `totalMs` are not.
 *
 * @throws {TypeError} when `origin` is missing; at the first chunk for wrong `options.cache`
 *
 * @example
 * const cached = pipe(provider, withCache(cache, { origin: 'https://api.openai.com', credential: () => apiKey }))
 */
export function withCache(cache: Cache, options: WithCacheOptions): Layer<Provider> {
  checkOptions<WithCacheOptions>('withCache', options, { origin: 1, credential: 1 })
  const { origin, credential = '' } = options
  if (cache?.[inner] === undefined) throw new TypeError('withCache takes a cache made by createCache()')
  if (typeof origin !== 'string' || origin === '') {
    throw new TypeError("withCache needs to know who answers. Write withCache(cache, { origin: 'https://api.example.com' })")
  }
  if (typeof credential !== 'string' && typeof credential !== 'function') {
    throw new TypeError('credential must be a string, or a function that gives one')
  }
  const self = cache[inner]
  // An iterator that is dropped without being left would hold its share of a call for ever.
  const dropped = new FinalizationRegistry<Noted>((stream) => stream.drop())
  return (next) => (request, call) => ({
    [Symbol.asyncIterator]: () => new CachedStream({ self, origin, credential, next, request, options: call, dropped })
  })
}

interface Call {
  readonly self: CacheInner
  readonly origin: string
  readonly credential: string | (() => string)
  readonly next: Provider
  readonly request: ChatRequest
  readonly options: CallOptions
  readonly dropped: FinalizationRegistry<Noted>
}

/**
 * Opened by the first read. Leaving reaches what it waits for even while a read is pending. It adds no promise of its own to
 * an answer that is in memory.
 */
class CachedStream implements ChunkIterator {
  readonly #call: Call
  readonly #leaving: Leaving = {}
  #opening: Promise<ChunkIterator> | undefined
  #stream: ChunkIterator | undefined
  #left = false

  constructor(call: Call) {
    this.#call = call
  }

  get ended(): boolean {
    return this.#left || this.#stream?.ended === true
  }

  next(): Promise<IteratorResult<Chunk, undefined>> {
    if (this.#left) return Promise.resolve(done)
    if (this.#stream !== undefined) return this.#stream.next()
    const opened = this.#open()
    return opened instanceof Promise ? opened.then((stream) => (this.#left ? done : stream.next())) : opened.next()
  }

  nextBatch(): Promise<readonly Chunk[] | undefined> {
    if (this.#left) return Promise.resolve(undefined)
    if (this.#stream !== undefined) return this.#stream.nextBatch()
    const opened = this.#open()
    return opened instanceof Promise ? opened.then((stream) => (this.#left ? undefined : stream.nextBatch())) : opened.nextBatch()
  }

  #open(): Awaitable<ChunkIterator> {
    if (this.#opening !== undefined) return this.#opening
    try {
      const { self, options } = this.#call
      const opened = lookUp(this.#call, this.#leaving)
      if (!(opened instanceof Promise)) {
        return this.#took('state' in opened ? streamOf(self, opened, options) : opened)
      }
      this.#opening = opened.then((reply) => {
        this.#leaving.leave = undefined
        const stream = this.#took(streamOf(self, reply, options))
        if (this.#left) void stream.return?.()
        return stream
      })
    } catch (error) {
      this.#opening = Promise.reject(error)
    }
    return this.#opening
  }

  #took(stream: ChunkIterator): ChunkIterator {
    this.#stream = stream
    if (stream instanceof Noted) {
      const { dropped } = this.#call
      dropped.register(this, stream, stream)
      stream.onOver = () => void dropped.unregister(stream)
    }
    return stream
  }

  async return(): Promise<IteratorResult<Chunk, undefined>> {
    this.#left = true
    this.#leaving.leave?.()
    await this.#stream?.return?.()
    return done
  }
}

const done: IteratorResult<Chunk, undefined> = { done: true, value: undefined }

/** A reply of the cache, or the stream of a call that goes past it. */
function lookUp(
  { self, origin, credential, next, request, options }: Call,
  leaving: Leaving
): Awaitable<Reply<Chunk>> | ChunkIterator {
  const { signal, callId, tenant, timeouts, cache: asked = none } = options
  signal?.throwIfAborted()
  if (asked !== none) checkCall(asked)
  const bypass = (reason: string): ChunkIterator => {
    self.announce('bypass', { callId, elapsedMs: 0 })
    const source = next(request, options)[Symbol.asyncIterator]()
    return new Noted(
      itemsOf(source),
      () => ({ state: 'bypass', reason }),
      (usage) => usage
    )
  }
  if (self.closing.aborted) return bypass('closed')
  if (asked.bypass === true) return bypass('asked')
  let scope: string
  let key: string
  let secret: string
  try {
    if (!isEligible(self, request)) return bypass('not-eligible')
    secret = typeof credential === 'function' ? credential() : credential
    scope = self.scopeOf(options, secret)
    key = keyOf(request, { origin, scope, tenant, secret: self.settings.secret })
  } catch {
    return bypass('no-key') // counted as bypassed, and told in the note
  }

  // The caller may change its request while we wait: what is sent must be what the key was made of.
  let asIs: ChatRequest | undefined
  return ask(
    self,
    {
      door: chat,
      key,
      asked,
      callId,
      signal,
      timeouts,
      whole: options.stream === false,
      by: () => self.byOf(scope, secret),
      groups: once(() => {
        asIs = copyOf(request)
        return self.groupsOf(scope, tenant, asked.tags)
      }),
      start: (upstream, background) => next(asIs ?? request, upstreamOptions(options, upstream, background))
    },
    leaving
  )
}

const none: CacheCallOptions = {}

type Awaitable<T> = T | Promise<T>

function streamOf(self: CacheInner, reply: Reply<Chunk>, { signal, tally }: CallOptions): ChunkIterator {
  if ('items' in reply) {
    return new Noted(
      reply.items,
      () => ({ state: reply.state }),
      (usage, model) => (reply.pays() ? usage : self.saved(usage, model))
    )
  }
  const { state, value, ageMs, refusal } = reply
  if (refusal) throw revive(value as Refusal)
  const answer = value as Answer
  const [first] = answer.chunks
  const model = first?.type === 'start' ? first.model : ''
  const note: Facts = { state, ageMs: Math.round(ageMs) }
  return replay(answer, { pace: self.settings.pace, signal, tally, note, usageOf: (usage) => self.saved(usage, model) })
}

/**
 * The upstream call belongs to all its askers: each keeps its own signal and total deadline, and the call ends with the
 * last of them. The rest is the first asker's. A refresh in the background is nobody's call.
 */
function upstreamOptions(options: CallOptions, signal: AbortSignal, background: boolean): CallOptions {
  const { cache: _, timeouts, ...rest } = options
  const lasting =
    timeouts?.totalMs === undefined
      ? { ...rest, signal, timeouts }
      : { ...rest, signal, timeouts: { ...timeouts, totalMs: Infinity } }
  return background
    ? { ...lasting, callId: undefined, tally: undefined, idempotencyKey: undefined, deadline: undefined }
    : lasting
}

function isEligible(self: CacheInner, request: ChatRequest): boolean {
  const asked = self.isEligible(request)
  if (asked !== undefined) return asked
  const n = request.extra?.n
  return !(typeof n === 'number' && n > 1)
}
