import {
  type CallOptions,
  type ChatRequest,
  type Chunk,
  checkOptions,
  checkRequest,
  type Facts,
  inputTokens,
  type Layer,
  type NoteChunk,
  outputTokens,
  type Provider,
  type Usage
} from '@millrace/core'
import { type Answer, condense, isAnswer, isJson } from './answer.ts'
import { type Cache, type CacheInner, inner } from './cache.ts'
import { createFlight, type Flight } from './flight.ts'
import type { Found } from './memory.ts'
import { copyOf, deepFreeze } from './plain.ts'

export interface WithCacheOptions {
  /** Who answers below this layer: a base URL, or a name of your own for a list of providers. Part of every key. */
  readonly origin: string
}

/**
 * A layer that answers equal requests from the cache, and equal requests at the same time with one upstream call. Every
 * stream tells in a note what happened: `state` is `hit` (with `ageMs`), `joined`, `miss`, or `bypass` (with `reason`).
 * A hit is a legal stream with the same content; usage of a hit and of a joined answer is not billed.
 *
 * Only complete, valid answers are stored: finished by `stop` or `tool-calls`, with tool arguments that parse. Requests
 * for several choices (`extra.n` above 1) go past the cache.
 *
 * An upstream call that is shared runs under the first asker's options: `firstChunkMs` and `idleMs` of those who join it
 * are ignored, their signal and `totalMs` are not. The key holds no credentials: see `CacheOptions.scope`.
 *
 * @throws {TypeError} when `origin` is missing
 * @throws {MillraceError} `invalid-request` at the first chunk, for a request that no provider could answer
 *
 * @example
 * const cached = pipe(provider, withCache(cache, { origin: 'https://api.openai.com' }))
 */
export function withCache(cache: Cache, options: WithCacheOptions): Layer<Provider> {
  checkOptions<WithCacheOptions>('withCache', options, { origin: 1 })
  const { origin } = options
  if (cache?.[inner] === undefined) throw new TypeError('withCache takes a cache made by createCache()')
  if (typeof origin !== 'string' || origin === '') {
    throw new TypeError("withCache needs to know who answers. Write withCache(cache, { origin: 'https://api.example.com' })")
  }
  const self = cache[inner]
  return (next) => (request, call) => ({
    [Symbol.asyncIterator]: () => openLate((left) => lookUp({ self, origin, next, request, options: call, left }))
  })
}

interface Call {
  readonly self: CacheInner
  readonly origin: string
  readonly next: Provider
  readonly request: ChatRequest
  readonly options: CallOptions
  /** The reader has gone while we looked. */
  readonly left: () => boolean
}

type Chunks = AsyncIterator<Chunk, undefined>

async function lookUp({ self, origin, next, request, options, left }: Call): Promise<Chunks> {
  const { signal, callId, cache: asked = {} } = options
  signal?.throwIfAborted()
  checkRequest(request)
  const told = { callId, startedAt: performance.now() }
  const { tiers, flights, counts, announce } = self

  function bypass(reason: string): Chunks {
    announce('bypass', told)
    const source = next(request, options)[Symbol.asyncIterator]() as Chunks
    return annotated(source, { state: 'bypass', reason }, (usage) => usage)
  }

  if (self.closed) return bypass('closed')
  if (asked.bypass === true) return bypass('asked')
  if (severalChoices(request)) return bypass('choices')
  const key = self.keyFor(request, options, origin)
  if (key === undefined) return bypass('no-key')

  function saved(usage: Usage): Usage {
    counts.tokensSaved += inputTokens(usage) + outputTokens(usage)
    return { ...usage, billed: false }
  }

  function hit({ value, ageMs }: Found): Chunks {
    announce('hit', { ...told, ageMs })
    return annotated(replay(value as Answer, signal), { state: 'hit', ageMs: Math.round(ageMs) }, saved)
  }

  function board(flight: Flight, state: 'joined' | 'miss'): Chunks {
    announce(state, told)
    const asker = flight.join(options)
    return annotated(asker.chunks, { state }, (usage) => (asker.pays() ? usage : saved(usage)))
  }

  if (asked.refresh !== true) {
    const maxAgeMs = asked.maxAgeMs ?? Number.POSITIVE_INFINITY
    // After the wait for the store another asker's answer may have come into memory.
    const found =
      tiers.peek(key) ?? (tiers.store === undefined ? undefined : ((await tiers.find('chat', key)) ?? tiers.peek(key)))
    signal?.throwIfAborted()
    if (left()) return replay([], signal)
    if (found !== undefined && found.ageMs <= maxAgeMs) return hit(found)
    const flight = flights.get(key)
    if (flight?.joinable === true) return board(flight, 'joined')
  }

  // The caller may change its request while we wait: what is sent must be what the key was made of.
  const asIs = copyOf(request)
  if (tiers.store !== undefined && self.keyFor(asIs, options, origin) !== key) return bypass('changed')
  const rule = { noStore: asked.noStore, ttlMs: asked.ttlMs, epoch: tiers.epoch }
  const flight = createFlight({
    start: (upstream) => next(asIs, flightOptions(options, upstream)),
    maxBytes: self.maxEntryBytes,
    onEnd(chunks) {
      if (flights.get(key) === flight) flights.delete(key)
      const answer = chunks === undefined ? undefined : condense(chunks)
      if (isAnswer(answer) && isJson(answer)) self.keep('chat', key, deepFreeze(answer), rule)
      else counts.notStored++
    }
  })
  flights.set(key, flight)
  return board(flight, 'miss')
}

/**
 * The upstream call belongs to all its askers: each keeps its own signal and total deadline, and the call ends with the
 * last of them. The rest is the first asker's.
 */
function flightOptions(options: CallOptions, signal: AbortSignal): CallOptions {
  const { cache: _, timeouts, ...rest } = options
  if (timeouts?.totalMs === undefined) return { ...rest, signal, timeouts }
  return { ...rest, signal, timeouts: { ...timeouts, totalMs: Number.POSITIVE_INFINITY } }
}

function severalChoices(request: ChatRequest): boolean {
  const n = request.extra?.n
  return typeof n === 'number' && n > 1
}

function replay(answer: Answer, signal: AbortSignal | undefined): Chunks {
  let at = 0
  return {
    async next() {
      signal?.throwIfAborted()
      const value = answer[at++]
      return value === undefined ? { done: true, value } : { done: false, value }
    }
  }
}

/** The stream with our note right after its start, and usage as `usageOf` tells it. */
function annotated(source: Chunks, facts: Facts, usageOf: (usage: Usage) => Usage): Chunks {
  let note: NoteChunk | undefined = { type: 'note', from: 'cache', facts }
  let waiting: Chunk | undefined

  function took(result: IteratorResult<Chunk, undefined>): IteratorResult<Chunk, undefined> {
    if (result.done === true) return result
    const chunk = result.value
    const value: Chunk = chunk.type === 'usage' ? { type: 'usage', usage: usageOf(chunk.usage) } : chunk
    if (note === undefined) return { done: false, value }
    const ours = note
    note = undefined
    const isStart = chunk.type === 'start'
    waiting = isStart ? ours : value
    return { done: false, value: isStart ? value : ours }
  }

  return {
    next() {
      if (waiting === undefined) return source.next().then(took)
      const value = waiting
      waiting = undefined
      return Promise.resolve({ done: false, value })
    },
    async return() {
      await source.return?.()
      return { done: true, value: undefined }
    }
  }
}

/** An iterator over a stream that is opened by the first read. Leaving reaches the stream even while a read is pending. */
function openLate(open: (left: () => boolean) => Promise<Chunks>): Chunks {
  let left = false
  let stream: Chunks | undefined
  let opening: Promise<Chunks> | undefined
  const done: IteratorResult<Chunk, undefined> = { done: true, value: undefined }

  async function first(): Promise<IteratorResult<Chunk, undefined>> {
    opening ??= open(() => left)
    stream = await opening
    if (!left) return stream.next()
    await stream.return?.()
    return done
  }

  return {
    next() {
      if (left) return Promise.resolve(done)
      return stream === undefined ? first() : stream.next()
    },
    async return() {
      left = true
      await stream?.return?.()
      return done
    }
  }
}
