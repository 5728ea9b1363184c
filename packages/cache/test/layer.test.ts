import { getEventListeners } from 'node:events'
import { setTimeout as delay, setImmediate as tick } from 'node:timers/promises'
import {
  type CacheLookup,
  type CallOptions,
  type Chunk,
  channels,
  checkRequest,
  collect,
  isMillraceError,
  type Provider
} from '@millrace/core'
import { providerConformance } from '@millrace/core/testing'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { type Cache, type CacheOptions, createCache, withCache } from '../src/index.ts'
import { answer, ask, cacheNote, finish, gather, script, start, textOf, usage } from './scripted.ts'

function layered(provider: Provider, options: CacheOptions = {}): { cache: Cache; cached: Provider } {
  const cache = createCache(options)
  return { cache, cached: withCache(cache, { origin: 'test' })(provider) }
}

describe('withCache: hit and miss', () => {
  it('answers the second equal request without an upstream call, as a legal stream with usage not billed', async () => {
    const { provider, calls } = script(() => answer('one two three'))
    const { cache, cached } = layered(provider)
    const first = await gather(cached(ask(), {}))
    const second = await gather(cached(ask(), {}))
    expect(calls).toHaveLength(1)
    expect(first.map((chunk) => chunk.type)).toEqual(['start', 'note', 'text', 'text', 'text', 'usage', 'finish'])
    expect(second.map((chunk) => chunk.type)).toEqual(['start', 'note', 'text', 'usage', 'finish'])
    expect(cacheNote(first)).toEqual({ state: 'miss' })
    expect(cacheNote(second)).toEqual({ state: 'hit', ageMs: expect.any(Number) })
    expect(textOf(second)).toBe('one two three')
    const billed = (chunks: Chunk[]): unknown => chunks.find((chunk) => chunk.type === 'usage')?.usage
    expect(billed(first)).toEqual(usage)
    expect(billed(second)).toEqual({ ...usage, billed: false })
    expect(cache.stats()).toMatchObject({
      hits: 1,
      misses: 1,
      joined: 0,
      bypassed: 0,
      stored: 1,
      notStored: 0,
      entries: 1,
      hitRate: 0.5,
      tokensSaved: 15
    })
  })

  it('replays every field: reasoning with signatures, tool calls, refusal, extras, and collects to the same completion', async () => {
    const chunks: Chunk[] = [
      start,
      { type: 'note', from: 'retry', facts: { attempts: 2 } },
      { type: 'reasoning', text: 'a' },
      { type: 'reasoning', text: 'b', signature: 's1' },
      { type: 'reasoning', text: 'c', signature: 's2' },
      { type: 'text', text: '\ud83d' },
      { type: 'text', text: '\ude00 ' },
      { type: 'extra', name: 'logprobs', value: { tokens: [{ token: 'x', logprob: -0.5 }] } },
      { type: 'text', text: 'end' },
      { type: 'refusal', text: 'no' },
      { type: 'tool-call', index: 0, id: 'c0', name: 'f', arguments: '{"a"' },
      { type: 'tool-call', index: 0, arguments: ':1}' },
      { type: 'tool-call', index: 1, id: 'c1', name: 'g', arguments: '{}' },
      { type: 'usage', usage },
      finish('tool-calls')
    ]
    const { provider, calls } = script(() => structuredClone(chunks))
    const { cached } = layered(provider)
    const first = await collect(cached(ask(), {}))
    const second = await collect(cached(ask(), {}))
    expect(calls).toHaveLength(1)
    expect(first.notes).toEqual({ retry: { attempts: 2 }, cache: { state: 'miss' } })
    expect(second.notes).toEqual({ cache: { state: 'hit', ageMs: expect.any(Number) } })
    expect({ ...second, notes: {}, usage: undefined }).toEqual({ ...first, notes: {}, usage: undefined })
  })

  it('shares one key between stream: true and stream: false, and passes the shape on', async () => {
    const { provider, calls } = script(() => answer('x'))
    const { cached } = layered(provider)
    await collect(cached(ask(), { stream: false }))
    await collect(cached(ask(), { stream: true }))
    expect(calls.map(({ options }) => options.stream)).toEqual([false])
  })

  it('never serves one tenant, scope or origin the answer of another', async () => {
    const { provider, calls } = script((call) => answer(`answer ${call}`))
    const cache = createCache({ scope: (options) => options.idempotencyKey ?? 'none' })
    const one = withCache(cache, { origin: 'one' })(provider)
    const two = withCache(cache, { origin: 'two' })(provider)
    const texts = new Set<string>()
    for (const cached of [one, two]) {
      for (const tenant of [undefined, '', 'a', 'b']) {
        for (const idempotencyKey of [undefined, 'k']) {
          texts.add((await collect(cached(ask(), { tenant, idempotencyKey }))).text)
        }
      }
    }
    expect(texts.size).toBe(16)
    expect(calls).toHaveLength(16)
  })

  it('is not touched by what a reader does with its answer', async () => {
    const { provider } = script(() => [start, { type: 'extra', name: 'x', value: { deep: [1] } }, ...answer('fine').slice(1)])
    const { cached } = layered(provider)
    for (let round = 0; round < 3; round++) {
      for (const chunk of await gather(cached(ask(), {}))) {
        if (chunk.type === 'extra') expect(() => ((chunk.value as { deep: number[] }).deep[0] = 2)).toThrow(TypeError)
        if (chunk.type === 'text') expect(() => ((chunk as { text: string }).text = 'bent')).toThrow(TypeError)
      }
    }
    expect((await collect(cached(ask(), {}))).text).toBe('fine')
  })

  it('sends what the key was made of, even when the caller changes its request meanwhile', async () => {
    const { provider, calls } = script((_call, request) => answer(`to ${request.messages.length}`))
    const { cached } = layered(provider)
    const request = { model: 'm', messages: [{ role: 'user' as const, content: 'x' }] }
    const pending = collect(cached(request, {}))
    request.messages.push({ role: 'user', content: 'y' })
    expect((await pending).text).toBe('to 1')
    expect((await collect(cached(ask('x'), {}))).text).toBe('to 1')
    expect(calls).toHaveLength(1)
  })
})

describe('withCache: what is kept', () => {
  const broken = new Error('broken')
  const refused: [string, (Chunk | Error)[]][] = [
    ['length', answer('x', 'length')],
    ['content-filter', answer('x', 'content-filter')],
    ['cut', answer('x', 'cut')],
    ['other', answer('x', 'other')],
    ['no finish', answer('x').slice(0, -1)],
    ['an error', [start, { type: 'text', text: 'x' }, broken]],
    ['an error behind the finish', [...answer('x'), broken]],
    ['content behind the finish', [...answer('x'), { type: 'text', text: 'more' }]],
    ['no content', [start, finish()]],
    ['no start', answer('x').slice(1)],
    ['two finishes', [...answer('x'), finish()]],
    [
      'tool arguments that do not parse',
      [start, { type: 'tool-call', index: 0, id: 'a', name: 'f', arguments: '{"a":' }, finish('tool-calls')]
    ],
    ['a field JSON would bend', [start, { type: 'text', text: 'x', raw: 1n } as never, finish()]],
    [
      'an extra JSON would bend',
      [start, { type: 'text', text: 'x' }, { type: 'extra', name: 'x', value: new Date() as never }, finish()]
    ]
  ]
  for (const [what, chunks] of refused) {
    it(`does not store an answer with ${what}, and passes it on as it is`, async () => {
      const { provider, calls } = script(() => chunks)
      const { cache, cached } = layered(provider)
      for (let round = 1; round <= 2; round++) {
        const seen: unknown[] = []
        try {
          for await (const chunk of cached(ask(), {})) if (chunk.type !== 'note') seen.push(chunk)
        } catch (error) {
          seen.push(error)
        }
        expect(seen).toEqual(chunks)
        expect(calls).toHaveLength(round)
      }
      expect(cache.stats()).toMatchObject({ stored: 0, notStored: 2, entries: 0, hits: 0, misses: 2 })
    })
  }

  it('stores a complete answer of a reader who stops at the finish', async () => {
    const { provider, calls } = script(() => answer('x'))
    const { cached } = layered(provider)
    for await (const chunk of cached(ask(), {})) if (chunk.type === 'finish') break
    await tick()
    expect(calls[0]?.ended).toBe('done')
    expect(cacheNote(await gather(cached(ask(), {})))).toMatchObject({ state: 'hit' })
  })

  it('neither stores nor holds an answer above maxEntryBytes, however large its pieces, and the reader gets all of it', async () => {
    const text = 'x'.repeat(4000)
    const { provider, calls } = script(() => [start, { type: 'text', text }, { type: 'text', text }, finish()])
    const { cache, cached } = layered(provider, { maxEntryBytes: 5000 })
    expect((await collect(cached(ask(), {}))).text).toHaveLength(8000)
    expect((await collect(cached(ask(), {}))).text).toHaveLength(8000)
    expect(calls).toHaveLength(2)
    expect(cache.stats()).toMatchObject({ stored: 0, entries: 0 })
  })

  it('asks again when the answer is older than ttlMs, or than the call takes', async () => {
    let now = 0
    const { provider, calls } = script(() => answer('x'))
    const { cached } = layered(provider, { ttlMs: 1000, now: () => now })
    const state = async (cache?: CallOptions['cache']): Promise<unknown> => cacheNote(await gather(cached(ask(), { cache })))
    await state()
    now = 999
    expect(await state()).toEqual({ state: 'hit', ageMs: 999 })
    expect(await state({ maxAgeMs: 500 })).toEqual({ state: 'miss' })
    now = 1998
    expect(await state()).toEqual({ state: 'hit', ageMs: 999 })
    now = 1999
    expect(await state({ ttlMs: 10 })).toEqual({ state: 'miss' })
    now = 2009
    expect(await state({ ttlMs: 0 })).toEqual({ state: 'miss' })
    expect(await state()).toEqual({ state: 'miss' })
    expect(calls).toHaveLength(5)
  })

  it('obeys bypass, noStore and refresh', async () => {
    const { provider, calls } = script((call) => answer(`${call}`))
    const { cache, cached } = layered(provider)
    const text = async (options: CallOptions['cache']): Promise<string> => (await collect(cached(ask(), { cache: options }))).text
    expect(await text({ noStore: true })).toBe('0')
    expect(await text({})).toBe('1')
    expect(await text({ noStore: true })).toBe('1')
    expect(await text({ bypass: true })).toBe('2')
    expect(await text({})).toBe('1')
    expect(await text({ refresh: true })).toBe('3')
    expect(await text({})).toBe('3')
    expect(calls).toHaveLength(4)
    expect(cache.stats()).toMatchObject({ bypassed: 1, hits: 3, misses: 3 })
  })

  it('goes past the cache for several choices, without a key, and after close, and says why', async () => {
    const { provider, calls } = script(() => answer('x'))
    const { cache, cached } = layered(provider, { scope: (options) => (options.priority === 1 ? '' : 'all') })
    const reason = async (request = ask(), options: CallOptions = {}): Promise<unknown> =>
      cacheNote(await gather(cached(request, options)))?.reason
    expect(await reason(ask('x', { extra: { n: 2 } }))).toBe('not-eligible')
    expect(await reason(ask(), { priority: 1 })).toBe('no-key')
    await cache.close()
    expect(await reason()).toBe('closed')
    expect(await reason()).toBe('closed')
    expect(calls).toHaveLength(4)
    expect(cache.stats()).toMatchObject({ bypassed: 4, entries: 0 })
  })

  it('goes past the cache where eligible throws or gives a promise', async () => {
    const wrong = [
      () => {
        throw new Error('broken')
      },
      (async () => true) as never
    ]
    for (const eligible of wrong) {
      const { provider, calls } = script(() => answer('x'))
      const { cache, cached } = layered(provider, { eligible })
      for (let round = 0; round < 2; round++) {
        expect(cacheNote(await gather(cached(ask(), {})))).toEqual({ state: 'bypass', reason: 'no-key' })
      }
      expect(calls).toHaveLength(2)
      expect(cache.stats()).toMatchObject({ bypassed: 2, stored: 0 })
    }
  })

  it('gives the hit where its price throws or is no number, and counts it as unpriced', async () => {
    const prices = [
      () => {
        throw new Error('broken')
      },
      () => Number.NaN,
      () => 'free' as never,
      () => undefined
    ]
    for (const price of prices) {
      let priced = 0
      const { cache, cached } = layered(script(() => answer('x')).provider, {
        price: () => (priced++ === 0 ? price() : 2)
      })
      await collect(cached(ask(), {}))
      expect((await collect(cached(ask(), {}))).text).toBe('x')
      expect(cache.stats()).toMatchObject({ hits: 1, unpriced: 1, moneySaved: 0, tokensSaved: 15 })
      await collect(cached(ask(), {}))
      expect(cache.stats()).toMatchObject({ hits: 2, unpriced: 1, moneySaved: 2, tokensSaved: 30 })
    }
  })

  it('leaves a request that no provider could answer to the provider, and keeps nothing of it', async () => {
    const checked = script((_call, request) => {
      checkRequest(request)
      return answer('x')
    })
    const { cache, cached } = layered(checked.provider)
    const wrong: [unknown, string][] = [
      [null, ''],
      [{ model: 'm' }, 'messages'],
      [ask('x', { extra: { date: new Date() as never } }), 'extra.date'],
      [{ ...ask(), colour: 'red' }, 'colour']
    ]
    for (const [request, path] of wrong) {
      for (const options of [{}, { cache: { bypass: true } }]) {
        const error = await gather(cached(request as never, options)).catch((thrown: unknown) => thrown)
        expect(isMillraceError(error, 'invalid-request') && error.details.path).toBe(path)
      }
    }
    expect(cache.stats()).toMatchObject({ stored: 0, entries: 0 })
  })

  it('forgets what was asked for before a clear', async () => {
    const gate = Promise.withResolvers<void>()
    const { provider, calls } = script(
      (call) => answer(`${call}`),
      () => gate.promise
    )
    const { cache, cached } = layered(provider)
    const before = collect(cached(ask(), {}))
    await tick()
    await cache.clear()
    const after = collect(cached(ask(), {}))
    await tick()
    gate.resolve()
    expect((await before).text).toBe('0')
    expect((await after).text).toBe('1')
    expect(cache.stats()).toMatchObject({ stored: 1, notStored: 1 })
    expect((await collect(cached(ask(), {}))).text).toBe('1')
    expect(calls).toHaveLength(2)
  })
})

describe('withCache: one call for many askers', () => {
  it('makes one upstream call for 1,000 equal misses and gives everybody the whole answer, one of them billed', async () => {
    const { provider, calls } = script(
      () => answer('a b c'),
      () => tick()
    )
    const { cache, cached } = layered(provider)
    const all = await Promise.all(Array.from({ length: 1000 }, () => gather(cached(ask(), {}))))
    expect(calls).toHaveLength(1)
    expect(new Set(all.map(textOf))).toEqual(new Set(['a b c']))
    expect(all.filter((chunks) => chunks.some((chunk) => chunk.type === 'usage' && chunk.usage.billed))).toHaveLength(1)
    expect(all.filter((chunks) => cacheNote(chunks)?.state === 'joined')).toHaveLength(999)
    expect(cache.stats()).toMatchObject({ misses: 1, joined: 999, stored: 1, hitRate: 0.999, tokensSaved: 999 * 15 })
  })

  it('gives a late asker the beginning at once and then follows live', async () => {
    let step = Promise.withResolvers<void>()
    let sent = 0
    const { provider, calls } = script(
      () => answer('a b c'),
      () => (sent++ < 3 ? Promise.resolve() : step.promise)
    )
    const { cached } = layered(provider)
    const early = cached(ask(), {})[Symbol.asyncIterator]()
    for (let read = 0; read < 4; read++) await early.next() // start, note, 'a ', 'b '
    const late = cached(ask(), {})[Symbol.asyncIterator]()
    const seen: Chunk[] = []
    for (let read = 0; read < 4; read++) seen.push((await late.next()).value)
    expect(seen.map((chunk) => chunk.type)).toEqual(['start', 'note', 'text', 'text'])
    expect(cacheNote(seen)).toEqual({ state: 'joined' })
    const next = late.next()
    expect(await Promise.race([next, delay(20, 'waits')])).toBe('waits')
    step.resolve()
    expect((await next).value).toEqual({ type: 'text', text: 'c' })
    await early.return?.()
    await late.return?.()
    expect(calls).toHaveLength(1)
  })

  it('reads the upstream no further than somebody has read', async () => {
    const scripted = script(() => answer('a b c d e f g h'))
    const { cached } = layered(scripted.provider)
    const slow = cached(ask(), {})[Symbol.asyncIterator]()
    for (let read = 0; read < 3; read++) await slow.next() // start, note, 'a '
    await delay(10)
    expect(scripted.pulled).toBe(2)
    const fast = cached(ask(), {})[Symbol.asyncIterator]()
    for (let read = 0; read < 6; read++) await fast.next()
    await delay(10)
    expect(scripted.pulled).toBe(5)
    expect((await slow.next()).value).toEqual({ type: 'text', text: 'b ' })
    await slow.return?.()
    await fast.return?.()
  })

  it('lets any asker abort without hurting the others, whoever came first, and rejects it with its own reason', async () => {
    for (const leaver of [0, 1, 2]) {
      const gate = Promise.withResolvers<void>()
      const { provider, calls } = script(
        () => answer('a b c'),
        () => gate.promise
      )
      const { cached } = layered(provider)
      const controllers = [0, 1, 2].map(() => new AbortController())
      const runs = controllers.map(({ signal }) => collect(cached(ask(), { signal })))
      const settled = Promise.allSettled(runs)
      await tick()
      const reason = new Error('enough')
      controllers[leaver]?.abort(reason)
      await tick()
      gate.resolve()
      const results = await settled
      for (const [index, result] of results.entries()) {
        if (index === leaver) expect(result).toMatchObject({ status: 'rejected', reason })
        else expect(result).toMatchObject({ status: 'fulfilled', value: { text: 'a b c' } })
      }
      // The bill goes to the first who is still there.
      const billed = results.map((result) => result.status === 'fulfilled' && result.value.usage?.billed)
      expect(billed.filter((bill) => bill === true)).toHaveLength(1)
      expect(calls).toMatchObject([{ ended: 'done' }])
      for (const { signal } of controllers) expect(getEventListeners(signal, 'abort')).toHaveLength(0)
    }
  })

  it('aborts the upstream when the last asker leaves, by abort or by breaking off, and the next one starts anew', async () => {
    const { provider, calls } = script(
      () => answer('a b c'),
      (signal) => delay(5000, undefined, { signal }).catch(() => {})
    )
    const { cache, cached } = layered(provider)
    const controller = new AbortController()
    const aborted = collect(cached(ask(), { signal: controller.signal }))
    const left = cached(ask(), {})[Symbol.asyncIterator]()
    const pending = left.next()
    await tick()
    const reason = new Error('stop')
    controller.abort(reason)
    await expect(aborted).rejects.toBe(reason)
    expect(calls[0]?.ended).toBe('open')
    await left.return?.() // behind a pending next
    expect(await pending).toEqual({ done: true, value: undefined })
    await tick()
    expect(calls[0]?.ended).toBe('aborted')
    const again = cached(ask(), {})[Symbol.asyncIterator]()
    void again.next()
    await tick()
    expect(calls).toHaveLength(2)
    await again.return?.()
    expect(cache.stats()).toMatchObject({ misses: 2, joined: 1, stored: 0, notStored: 2 })
  })

  it('drops an asker at its abort even while it is busy with what it has', async () => {
    const { provider, calls } = script(() => answer('a b c'))
    const { cached } = layered(provider)
    const controller = new AbortController()
    const reader = cached(ask(), { signal: controller.signal })[Symbol.asyncIterator]()
    for (let read = 0; read < 3; read++) await reader.next()
    controller.abort(new Error('stop'))
    await tick()
    expect(calls[0]?.ended).not.toBe('open')
    await expect(reader.next()).rejects.toThrow('stop')
  })

  it('tells a failure to everybody once, behind what had come, and does not keep it', async () => {
    const broken = new Error('broken')
    const { provider, calls } = script(
      (call) => (call === 0 ? [start, { type: 'text', text: 'a' }, broken] : answer('fine')),
      () => tick()
    )
    const { cached } = layered(provider)
    const seen: string[] = []
    const runs = Array.from({ length: 5 }, async () => {
      for await (const chunk of cached(ask(), {})) if (chunk.type === 'text') seen.push(chunk.text)
    })
    for (const result of await Promise.allSettled(runs)) expect(result).toMatchObject({ status: 'rejected', reason: broken })
    expect(seen).toHaveLength(5)
    expect((await collect(cached(ask(), {}))).text).toBe('fine')
    expect(calls).toHaveLength(2)
  })

  it('gives each asker its own total deadline, and none to the shared call', async () => {
    const gate = Promise.withResolvers<void>()
    const { provider, calls } = script(
      () => answer('a'),
      () => gate.promise
    )
    const { cached } = layered(provider)
    const short = collect(cached(ask(), { timeouts: { totalMs: 20, idleMs: 77 } }))
    const long = collect(cached(ask(), {}))
    await expect(short).rejects.toSatisfy((error) => isMillraceError(error, 'timeout') && error.details.clock === 'total')
    gate.resolve()
    expect((await long).text).toBe('a')
    expect(calls).toHaveLength(1)
    expect(calls[0]?.options.timeouts).toEqual({ totalMs: Number.POSITIVE_INFINITY, idleMs: 77 })
  })

  it('does not join or store calls with noStore, bypass or several choices with others against their will', async () => {
    const { provider, calls } = script(
      (call) => answer(`${call}`),
      () => tick()
    )
    const { cached } = layered(provider)
    const options: CallOptions[] = [{}, { cache: { bypass: true } }, { cache: { refresh: true } }, {}]
    const texts = await Promise.all(options.map(async (each) => (await collect(cached(ask(), each))).text))
    expect(calls).toHaveLength(3)
    expect(new Set(texts.slice(0, 3))).toEqual(new Set(['0', '1', '2']))
    // The last one joins what is fetched anew, not what was under way before.
    expect(texts[3]).toBe(texts[2])
  })

  it('serves every asker who stays, for any coming, leaving and stopping (fast-check seed 20261122)', async () => {
    const asker = fc.record({
      comes: fc.nat(12),
      leaves: fc.option(fc.nat(12)),
      stopsAfter: fc.option(fc.nat(8)),
      refresh: fc.boolean()
    })
    await fc.assert(
      fc.asyncProperty(fc.array(asker, { minLength: 1, maxLength: 6 }), fc.boolean(), async (askers, fails) => {
        const broken = new Error('broken')
        const { provider, calls } = script(
          () => (fails ? [...answer('a b c d').slice(0, 4), broken] : answer('a b c d')),
          () => tick()
        )
        const { cache, cached } = layered(provider)
        const runs = askers.map(async ({ comes, leaves, stopsAfter, refresh }) => {
          const controller = new AbortController()
          for (let turn = 0; turn < comes; turn++) await tick()
          const left = (async () => {
            for (let turn = 0; turn < (leaves ?? 0); turn++) await tick()
            if (leaves !== null) controller.abort(new Error('left'))
          })()
          const seen: Chunk[] = []
          let end: unknown = 'done'
          try {
            for await (const chunk of cached(ask(), { signal: controller.signal, cache: { refresh } })) {
              seen.push(chunk)
              if (seen.length === stopsAfter) break
            }
          } catch (error) {
            end = (error as Error).message
          }
          await left
          if (end === 'broken') expect(textOf(seen)).toBe('a b c ')
          else if (end === 'done' && stopsAfter === null) expect(textOf(seen)).toBe('a b c d')
          else expect(textOf(seen)).toBe('a b c d'.slice(0, textOf(seen).length))
          expect(['done', 'left', ...(fails ? ['broken'] : [])]).toContain(end)
          if (leaves === null) expect(end).not.toBe('left')
          expect(getEventListeners(controller.signal, 'abort')).toHaveLength(0)
        })
        await Promise.all(runs)
        for (let turn = 0; turn < 3; turn++) await tick()
        expect(calls.filter(({ ended }) => ended === 'open')).toEqual([])
        const { misses, stored, notStored } = cache.stats()
        expect(stored + notStored).toBe(misses)
        expect(calls.length).toBeLessThanOrEqual(misses)
      }),
      { seed: 20261122, numRuns: 300 }
    )
  })

  it('turns what is no chunk into an error instead of silence', async () => {
    const { cached } = layered(script(() => [start, undefined as never, finish()]).provider)
    await expect(collect(cached(ask(), {}))).rejects.toThrow(TypeError)
  })

  it('aborts an upstream whose answer it cannot read', async () => {
    const { provider, calls } = script(() => [start, null as never, finish()])
    const { cache, cached } = layered(provider)
    await expect(collect(cached(ask(), {}))).rejects.toThrow(TypeError)
    await tick()
    expect(calls[0]?.ended).not.toBe('open')
    expect(calls[0]?.options.signal?.aborted).toBe(true)
    expect(cache.stats()).toMatchObject({ stored: 0, notStored: 1 })
  })

  it('lets nobody join a call that was refused for its limit, so that the next asker pays and can end it', async () => {
    const { provider, calls } = script(
      () => answer('a'),
      (signal) => delay(5000, undefined, { signal }).catch(() => {})
    )
    const { cache, cached } = layered(provider)
    for (const totalMs of [-1, Number.NaN]) {
      await expect(collect(cached(ask(), { timeouts: { totalMs } }))).rejects.toThrow(TypeError)
    }
    const controller = new AbortController()
    const next = collect(cached(ask(), { signal: controller.signal })).catch((error: unknown) => error)
    await tick()
    expect(calls).toHaveLength(1)
    controller.abort('enough')
    expect(await next).toBe('enough')
    await tick()
    expect(calls[0]?.ended).toBe('aborted')
    expect(cache.stats()).toMatchObject({ misses: 1, joined: 0 })
  })

  it('does not let askers join an answer whose beginning it no longer holds', async () => {
    const gate = Promise.withResolvers<void>()
    let sent = 0
    const piece: Chunk = { type: 'text', text: 'x'.repeat(900) }
    const { provider, calls } = script(
      () => [start, piece, piece, piece, finish()],
      () => (sent++ < 4 ? Promise.resolve() : gate.promise)
    )
    const { cached } = layered(provider, { maxEntryBytes: 4000 })
    const early = cached(ask(), {})[Symbol.asyncIterator]()
    for (let read = 0; read < 5; read++) await early.next()
    const late = collect(cached(ask(), {}))
    await tick()
    expect(calls).toHaveLength(2)
    gate.resolve()
    expect((await late).text).toHaveLength(2700)
    await early.return?.()
  })
})

describe('withCache: manners', () => {
  it('asks nobody before the first read, and nobody at all when the signal is aborted already', async () => {
    const { provider, calls } = script(() => answer('x'))
    const { cache, cached } = layered(provider)
    cached(ask(), {})
    const reason = new Error('stop')
    await expect(collect(cached(ask(), { signal: AbortSignal.abort(reason) }))).rejects.toBe(reason)
    await collect(cached(ask(), {}))
    await expect(collect(cached(ask(), { signal: AbortSignal.abort(reason) }))).rejects.toBe(reason)
    expect(calls).toHaveLength(1)
    expect(cache.stats()).toMatchObject({ misses: 1, hits: 0 })
  })

  it('passes on all options but signal and cache, changes neither request nor options, and leaves no listener', async () => {
    const { provider, calls } = script(() => answer('x'))
    const { cached } = layered(provider)
    const controller = new AbortController()
    const request = Object.freeze(ask())
    const options: CallOptions = Object.freeze({
      signal: controller.signal,
      tenant: 't',
      priority: 3,
      callId: 'c',
      idempotencyKey: 'i',
      cache: {}
    })
    for (let round = 0; round < 3; round++) await collect(cached(request, options))
    const { signal, ...passed } = calls[0]?.options ?? {}
    expect(passed).toEqual({ tenant: 't', priority: 3, callId: 'c', idempotencyKey: 'i', timeouts: undefined })
    expect(signal).not.toBe(controller.signal)
    expect(getEventListeners(controller.signal, 'abort')).toHaveLength(0)
  })

  it('tells each lookup on the channel', async () => {
    const heard: CacheLookup[] = []
    const listen = (message: CacheLookup): void => void heard.push(message)
    channels.cacheLookup.subscribe(listen)
    try {
      const { provider } = script(() => answer('x'))
      const { cache, cached } = layered(provider)
      for (const callId of ['1', '2']) await collect(cached(ask(), { callId }))
      await collect(cached(ask(), { callId: '3', cache: { bypass: true } }))
      expect(heard).toMatchObject([
        { owner: cache, callId: '1', state: 'miss' },
        { owner: cache, callId: '2', state: 'hit', ageMs: expect.any(Number) },
        { owner: cache, callId: '3', state: 'bypass' }
      ])
    } finally {
      channels.cacheLookup.unsubscribe(listen)
    }
  })

  it('puts the note before the content of a stream without a start, too', async () => {
    const { cached } = layered(script(() => [{ type: 'text', text: 'x' }, finish()]).provider)
    expect((await gather(cached(ask(), {}))).map((chunk) => chunk.type)).toEqual(['note', 'text', 'finish'])
  })

  it('hands on what a provider throws at once', async () => {
    const broken = new Error('broken')
    const { cached } = layered(() => {
      throw broken
    })
    await expect(collect(cached(ask(), {}))).rejects.toBe(broken)
    await expect(collect(cached(ask(), { cache: { bypass: true } }))).rejects.toBe(broken)
  })

  it('keeps nothing alive of 20,000 calls that were answered, aborted or left', async () => {
    const { provider, calls } = script(() => answer('a b'))
    const { cached } = layered(provider, { maxEntries: 10 })
    const heap = (): number => {
      globalThis.gc?.()
      return process.memoryUsage().heapUsed
    }
    const controller = new AbortController()
    async function round(count: number): Promise<void> {
      for (let call = 0; call < count; call++) {
        const stream = cached(ask(`question ${call}`), { signal: controller.signal })
        if (call % 3 === 0) await gather(stream)
        else for await (const _ of stream) break
        calls.length = 0
      }
    }
    await round(2000)
    const before = heap()
    await round(20_000)
    expect(heap() - before).toBeLessThan(2_000_000)
    expect(getEventListeners(controller.signal, 'abort')).toHaveLength(0)
  })
})

describe('withCache: a provider behind it', () => {
  const scripted = script(
    (_call, request) => {
      checkRequest(request)
      return answer('word '.repeat(request.model === 'slow' ? 100 : 3))
    },
    (signal) => (signal === undefined ? tick() : delay(10, undefined, { signal }).catch(() => {}))
  )
  const { cached } = layered(scripted.provider)
  for (const { title, run } of providerConformance(() => ({
    provider: cached,
    request: ask(),
    slowRequest: ask('slow', { model: 'slow' }),
    requestsSeen: () => scripted.calls.filter(({ ended }) => ended !== 'failed').length,
    openAnswers: () => scripted.calls.filter(({ ended }) => ended === 'open').length
  }))) {
    // oxlint-disable-next-line vitest/expect-expect, vitest/valid-title -- the cases bring their own
    it(title, run)
  }
})
