import { getEventListeners } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
import { type Chunk, isMillraceError, type SharedLog } from '@millrace/core'
import { heapAfterGc, probeLeaks } from '@millrace/testkit'
import { afterEach, describe, expect, it } from 'vitest'
import type { EventFormat } from '../src/event-format.ts'
import { createMemoryLog } from '../src/memory-log.ts'
import { openaiEvents } from '../src/openai-events.ts'
import { toSSEResponse } from '../src/sse-response.ts'
import { createStreams, type Streams, type StreamsOptions } from '../src/streams.ts'
import { fed, finish, from, gather, start as head, text } from './source.ts'

const opened: (() => unknown)[] = []
afterEach(async () => {
  for (const close of opened.splice(0).toReversed()) await close()
})

function open(options: StreamsOptions = {}): Streams {
  const streams = createStreams(options)
  opened.push(() => streams.close({ graceMs: 0 }))
  return streams
}

/** Two replicas in one process: their log is in memory. */
function two(options: StreamsOptions = {}): { here: Streams; there: Streams; log: SharedLog } {
  const log = createMemoryLog({ keepMs: 60_000 })
  opened.push(() => log.close())
  return { here: open({ log, ...options }), there: open({ log, ...options }), log }
}

async function until(condition: () => boolean | Promise<boolean>, withinMs = 5000): Promise<void> {
  const end = performance.now() + withinMs
  while (!(await condition())) {
    if (performance.now() > end) throw new Error(`not within ${withinMs} ms: ${condition.toString()}`)
    await delay(2)
  }
}

const idOf = (event: string): string => /^id: (.*)\n/.exec(event)?.[1] ?? ''
const bodyOf = (event: string): string => event.replace(/^id: .*\n/, '')
const plain = (chunk: Chunk): string => `data: ${JSON.stringify(chunk)}\n\n`
const answer = (count: number): Chunk[] => [head, ...Array.from({ length: count }, (_, number) => text(`${number} `)), finish]

describe('createStreams', () => {
  it('refuses wrong options with the cure', async () => {
    const wrong: [unknown, RegExp][] = [
      [{ log: {} }, /log must be a shared log.*createRedisLog/],
      [{ format: 'openai' }, /format must be a format of events, such as openaiEvents/],
      [{ maxStreams: 0 }, /maxStreams must be a whole number from 1/],
      [{ maxBytes: 1 }, /maxBytes/],
      [{ maxBytes: 100, maxAheadBytes: 51 }, /maxAheadBytes must be a whole number from 1 to 50, not 51/],
      [{ keepMs: Number.POSITIVE_INFINITY }, /keepMs/],
      [{ abandonMs: 0 }, /abandonMs/],
      [{ onError: 'log' }, /onError must be a function of an error and an id/],
      [{ abandon: 1 }, /no option "abandon"; it has log/]
    ]
    for (const [options, message] of wrong) {
      expect(() => createStreams(options as StreamsOptions)).toThrow(TypeError)
      expect(() => createStreams(options as StreamsOptions)).toThrow(message)
    }
    const streams = open()
    expect(() => streams.start(undefined as never)).toThrow(/async iterable of chunks/)
    expect(() => streams.start(from([]), { id: 'mine' })).toThrow(/22 characters of base64url/)
    expect(() => streams.start(from([]), { formats: 1 } as never)).toThrow(/no option "formats"/)
    await expect(streams.resume('x', { format: 1 } as never)).rejects.toThrow(/format must be/)
    await expect(streams.close({ graceMs: -1 })).rejects.toThrow(/graceMs/)
    expect(streams.stats().started).toBe(0)
  })

  it('gives each event an id behind which it goes on, byte for byte, from every place, running and ended', async () => {
    const streams = open()
    const source = fed()
    const { id, events } = streams.start(source)
    expect(id).toMatch(/^[\w-]{22}$/)
    const chunks = answer(20)
    const reading = gather(events)
    for (const chunk of chunks.slice(0, 11)) source.give(chunk)
    await until(() => source.reads === 12)
    const running = await Promise.all(Array.from({ length: 12 }, (_, offset) => streams.resume(`${id}/${offset}`)))
    const resumed = running.map((each) => gather(each))
    for (const chunk of chunks.slice(11)) source.give(chunk)
    source.end()
    const whole = await reading
    expect(whole.map(bodyOf)).toEqual(chunks.map(plain))
    expect(whole.map(idOf)).toEqual(chunks.map((_, number) => `${id}/${number + 1}`))
    for (const [offset, each] of (await Promise.all(resumed)).entries()) expect(each).toEqual(whole.slice(offset))
    for (let offset = 0; offset <= whole.length; offset++) {
      expect(await gather(await streams.resume(`${id}/${offset}`))).toEqual(whole.slice(offset))
    }
    expect(await gather(await streams.resume(id))).toEqual(whole)
    expect(await gather(events)).toEqual(whole) // iterated again
    expect(streams.stats()).toMatchObject({ running: 0, readers: 0, started: 1, finished: 1, failed: 0 })
  })

  it('gives each event of a text with several an id of its own', async () => {
    const streams = open()
    const { id, events } = streams.start(from(answer(2)), { format: openaiEvents({ includeUsage: true }) })
    const all = await gather(events)
    expect(all.map(idOf)).toEqual(all.map((_, number) => `${id}/${number + 1}`))
    for (const event of all) expect(event.match(/\n\n/g)).toHaveLength(1)
    expect(all.at(-1)).toMatch(/data: \[DONE\]\n\n$/)
  })

  it('goes on reading when its client has left, and with several clients', async () => {
    const streams = open()
    const source = fed()
    const { id, events } = streams.start(source)
    source.give(head)
    for await (const event of events) {
      expect(idOf(event)).toBe(`${id}/1`)
      break
    }
    expect(source.returned).toBe(0)
    const [one, other] = [gather(await streams.resume(`${id}/1`)), gather(await streams.resume(id))]
    for (const chunk of answer(3).slice(1)) source.give(chunk)
    source.end()
    expect((await one).map(bodyOf)).toEqual(answer(3).slice(1).map(plain))
    expect((await other).map(bodyOf)).toEqual(answer(3).map(plain))
    expect(streams.stats()).toMatchObject({ resumed: 2, readers: 0, finished: 1 })
  })

  it('tells all clients of a stream that broke by the same typed error event, then and later', async () => {
    const streams = open()
    for (const end of ['fail', 'end', 'throw'] as const) {
      const source = fed()
      const { id, events } =
        end === 'throw'
          ? streams.start(() => {
              throw new Error('the key is sk-secret')
            })
          : streams.start(source)
      if (end !== 'throw') source.give(text('half'))
      if (end === 'fail') source.fail(new Error('the key is sk-secret'))
      if (end === 'end') source.end()
      const all = await gather(events)
      expect(all.at(-1)).toMatch(/^id: .*\nevent: error\ndata: \{"code":"(internal|protocol)"/)
      expect(all.join('')).not.toMatch(/secret/)
      expect(await gather(await streams.resume(`${id}/0`))).toEqual(all)
    }
    expect(streams.stats()).toMatchObject({ failed: 3, finished: 0, running: 0 })
  })

  it('survives a format that throws, or writes half an event', async () => {
    const streams = open()
    const formats: EventFormat[] = [
      {
        begin: () => ({
          write: () => {
            throw new Error('no')
          },
          end: () => '',
          fail: () => {
            throw new Error('no')
          }
        })
      },
      { begin: () => ({ write: () => 'data: half\n', end: () => '', fail: () => 'event: error\ndata: {}\n\n' }) },
      { begin: () => ({ write: () => '', end: () => 'data: half', fail: () => 'event: error\ndata: {}\n\n' }) }
    ]
    for (const format of formats) {
      const all = await gather(streams.start(from(answer(1)), { format }).events)
      expect(all).toHaveLength(1)
      expect(all[0]).toMatch(/^id: .*\nevent: error\ndata: \{.*\}\n\n$/)
    }
    expect(streams.stats()).toMatchObject({ failed: 3 })
  })
})

describe('a client that comes back', () => {
  const kilobyte = 'x'.repeat(1000)
  /** It gives `count` chunks of a kilobyte in batches, as a provider does whose bytes come faster than they are read. */
  function batches(count: number, of: number): AsyncIterable<Chunk> & { reads: number } {
    const source = {
      reads: 0,
      [Symbol.asyncIterator]: () => {
        let given = 0
        return {
          next: () => Promise.reject(new Error('read in batches')),
          async nextBatch(): Promise<readonly Chunk[] | undefined> {
            await delay(1)
            source.reads++
            if (given > count) return undefined
            if (given === count) {
              given++
              return [finish]
            }
            const size = Math.min(of, count - given)
            given += size
            return Array.from({ length: size }, () => text(kilobyte))
          },
          return: async () => ({ done: true, value: undefined }) as const
        }
      }
    }
    return source
  }

  /** The log of `two`, whose words can be lost, or refused. */
  function deaf(): { here: Streams; there: Streams; how: { words: 'heard' | 'lost' | 'refused' }; told: string[] } {
    const log = createMemoryLog({ keepMs: 60_000 })
    opened.push(() => log.close())
    const how: { words: 'heard' | 'lost' | 'refused' } = { words: 'heard' }
    const told: string[] = []
    const far: SharedLog = {
      ...log,
      async tell(id, word) {
        if (word !== '' && how.words === 'refused') throw new Error('OOM')
        if (word !== '') told.push(word)
        if (word !== '') await delay(20) // as a Redis takes its time
        return log.tell(id, how.words === 'lost' ? '' : word)
      }
    }
    const options = { maxAheadBytes: 10_000, maxBytes: 1_000_000 }
    return { here: open({ log, ...options }), there: open({ log: far, ...options }), how, told }
  }

  it('to the replica with the stream, further than that has heard of, lets the provider go on', async () => {
    const { here, there, how } = deaf()
    how.words = 'lost'
    const source = batches(40, 2)
    const { id } = here.start(source)
    const elsewhere = (await there.resume(id))[Symbol.asyncIterator]()
    let last = ''
    for (let number = 0; number < 10; number++) last = idOf((await elsewhere.next()).value as string)
    await elsewhere.return?.()
    expect(here.stats().running).toBe(1)
    const rest = await gather(await here.resume(last))
    expect(rest).toHaveLength(31)
    expect(rest.map(bodyOf).at(-1)).toBe(plain(finish))
  })

  it('to another replica is not held up when one read of the provider brings more than it may be ahead', async () => {
    const { here, there } = deaf()
    const { id } = here.start(batches(400, 40))
    const startedAt = performance.now()
    expect(await gather(await there.resume(id))).toHaveLength(401)
    expect(performance.now() - startedAt).toBeLessThan(5000) // abandonMs / 4 is 7500
  })

  it('to another replica says again what was refused, and reads on although nothing can be said', async () => {
    const { here, there, how } = deaf()
    const { id } = here.start(batches(40, 2))
    how.words = 'refused'
    const reader = (await there.resume(id))[Symbol.asyncIterator]()
    for (let number = 0; number < 9; number++) await reader.next()
    await expect(there.cancel(id)).rejects.toThrow('OOM')
    how.words = 'heard'
    const startedAt = performance.now()
    let count = 9
    for (let result = await reader.next(); result.done !== true; result = await reader.next()) count++
    expect(count).toBe(41)
    expect(performance.now() - startedAt).toBeLessThan(5000)
    expect(there.stats().unheard).toBeGreaterThan(0)
  })

  it('says where it was when it leaves another replica', async () => {
    const { here, there, told } = deaf()
    const source = fed()
    const { id } = here.start(source)
    source.give(head)
    const reader = (await there.resume(id))[Symbol.asyncIterator]()
    await reader.next()
    await reader.return?.()
    await until(() => told.at(-1) === 'read 1')
  })

  it('has nothing left behind the last event, here and elsewhere, which is told, and written without an error', async () => {
    const { here, there } = two({ format: openaiEvents() })
    const source = fed()
    const { id, events } = here.start(source)
    expect(events.ended).toBe(false)
    source.give(head)
    await until(() => source.reads === 2)
    expect((await here.resume(id)).ended).toBe(false)
    source.give(text('words'))
    source.give(finish)
    source.end()
    const last = idOf((await gather(events)).at(-1) as string)
    for (const streams of [here, there]) {
      const none = await streams.resume(last)
      expect(none).toMatchObject({ ended: true, readyTexts: true })
      expect(await (await toSSEResponse(none, { format: openaiEvents() })).text()).toBe('')
      expect((await streams.resume(id)).ended).toBe(false)
    }
  })

  it('and reads first when the stream has expired is told at once', async () => {
    const streams = open({ keepMs: 20 })
    const { id, events } = streams.start(from(answer(1)))
    await gather(events)
    const late = await streams.resume(id)
    await until(async () => (await streams.resume(id).catch(() => undefined)) === undefined)
    const startedAt = performance.now()
    expect(await gather(late)).toEqual([expect.stringMatching(/^event: error\n/)])
    expect(performance.now() - startedAt).toBeLessThan(5000) // it was 15 s
  })
})

describe('what fails at the start', () => {
  it('leaves nothing behind: a format that does not begin, a log that does not', async () => {
    let writes = 0
    const log = createMemoryLog()
    const unwilling: SharedLog = {
      ...log,
      write(id, options) {
        if (writes++ < 9) throw new Error('not now')
        return log.write(id, options)
      }
    }
    const streams = open({ log: unwilling, maxStreams: 2 })
    const broken: EventFormat = {
      begin() {
        throw new Error('mine')
      }
    }
    const id = 'abcdefghijklmnopqrstu-'
    for (let number = 0; number < 9; number++) expect(() => streams.start(from([]), { format: broken, id })).toThrow('mine')
    expect(writes).toBe(0)
    for (let number = 0; number < 9; number++) expect(() => streams.start(from([]))).toThrow('not now')
    const started = streams.start(from(answer(1)), { id })
    expect(await gather(started.events)).toHaveLength(3)
    expect(streams.stats()).toMatchObject({ started: 1, running: 0 })
    await log.close()
  })
})

describe('onError', () => {
  it('is told once of each stream that failed, with what clients are not told', async () => {
    const heard: [unknown, string][] = []
    const streams = open({ onError: (error, id) => heard.push([error, id]) })
    const error = new TypeError('mine')
    const failed = streams.start(() => {
      throw error
    })
    const whole = streams.start(from(answer(1)))
    const source = fed()
    const cancelled = streams.start(source)
    await streams.cancel(cancelled.id)
    const all = await gather(failed.events)
    await Promise.all([whole, cancelled].map(({ events }) => gather(events)))
    expect(all.join('')).not.toContain('mine')
    await gather(await streams.resume(failed.id))
    expect(heard).toEqual([[error, failed.id]])
  })
})

describe('an id that is wrong', () => {
  it('is refused at once, forged, foreign, expired or ahead, by one and the same error, before it gets to any log', async () => {
    const asked: string[] = []
    const log = createMemoryLog()
    const spy: SharedLog = { ...log, tell: (id, word) => (asked.push(id), log.tell(id, word)) }
    const streams = open({ log: spy, keepMs: 30 })
    const { id, events } = streams.start(from(answer(1)))
    await gather(events)
    const shapeless = ['', ' ', 'x', `${id}/`, `${id}/-1`, `${id}/01`, `${id}/1.5`, `${id}/1e3`, `${id}/9999999999`, `${id}\n/1`]
    shapeless.push(
      `*`,
      `${id.slice(1)}/1`,
      `${id}é/1`,
      `../${id}`,
      'a'.repeat(1_000_000),
      `${id}/1\0`,
      undefined as never,
      {} as never
    )
    const errors: unknown[] = []
    for (const wrong of shapeless) errors.push(await streams.resume(wrong).catch((error: unknown) => error))
    expect(asked).toEqual([])
    for (const wrong of [`${id}/4`, `${'A'.repeat(22)}/0`])
      errors.push(await streams.resume(wrong).catch((error: unknown) => error))
    await until(async () => (await streams.resume(id).catch(() => undefined)) === undefined)
    errors.push(await streams.resume(`${id}/1`).catch((error: unknown) => error))
    for (const error of errors) {
      expect(isMillraceError(error, 'invalid-request')).toBe(true)
      expect(error).toMatchObject({ details: { status: 404 }, message: (errors[0] as Error).message })
    }
    expect(await streams.cancel('x')).toBe(false)
    expect(await streams.cancel('A'.repeat(22))).toBe(false)
    expect(await streams.cancel(id)).toBe(false)
    expect(streams.stats().unknown).toBe(errors.length + 1)
    await log.close()
  })

  it('of the caller is taken once', async () => {
    const streams = open()
    const id = 'abcdefghijklmnopqrstu-'
    const source = fed()
    expect(streams.start(source, { id }).id).toBe(id)
    expect(() => streams.start(from(answer(1)), { id })).toThrow(/id must be new.*running/)
    await streams.cancel(id)
    expect(() => streams.start(from(answer(1)), { id })).toThrow(/id must be new.*ended/)
  })
})

describe('cancel', () => {
  it('stops the provider at once and gives all readers a legal end', async () => {
    for (const format of [undefined, openaiEvents()]) {
      const streams = open(format === undefined ? {} : { format })
      const source = fed()
      const { id, events } = streams.start(source)
      source.give(head)
      source.give(text('half'))
      const [one, other] = [gather(events), gather(await streams.resume(`${id}/1`).catch(() => streams.resume(id)))]
      await until(() => source.reads === 3)
      expect(await streams.cancel(`${id}/1`)).toBe(true)
      expect(source.returned).toBe(1)
      source.give(text('too late'))
      const all = await one
      expect(all.join('')).toContain('half')
      expect(all.join('')).not.toContain('late')
      expect(all.at(-1)).toMatch(format === undefined ? /"finish","reason":"cut"/ : /\[DONE\]/)
      if (format !== undefined) expect(all.join('')).toContain('"finish_reason":"length"')
      expect(all.slice(-2)).toEqual((await other).slice(-2))
      expect(await streams.cancel(id)).toBe(false)
      expect(streams.stats()).toMatchObject({ cancelled: 1, running: 0, failed: 0 })
    }
  })

  it('aborts first what is begun by a function, although a generator is busy', async () => {
    const streams = open()
    let aborted: unknown
    const { id, events } = streams.start(async function* (signal) {
      yield head
      await new Promise((_, reject) => signal.addEventListener('abort', () => reject((aborted = signal.reason))))
    })
    const iterator = events[Symbol.asyncIterator]()
    await iterator.next()
    expect(await streams.cancel(id)).toBe(true)
    expect(aborted).toMatchObject({ name: 'AbortError' })
    expect((await iterator.next()).value).toMatch(/"cut"/)
    expect((await iterator.next()).done).toBe(true)
  })

  it('does not wait for a source that never answers, and counts what throws on being left as nothing', async () => {
    const streams = open()
    const stubborn: AsyncIterable<Chunk> = {
      [Symbol.asyncIterator]: () => ({
        next: () => new Promise(() => {}),
        return() {
          throw new Error('I will not')
        }
      })
    }
    const { id, events } = streams.start(stubborn)
    const reading = gather(events)
    await delay(5)
    expect(await streams.cancel(id)).toBe(true)
    expect((await reading).map(bodyOf)).toEqual([plain({ type: 'finish', reason: 'cut' })])
  })

  it('behind the finish of the provider adds no second one', async () => {
    const streams = open()
    const source = fed()
    const { id, events } = streams.start(source)
    for (const chunk of answer(1)) source.give(chunk)
    await until(() => source.reads === 4)
    await streams.cancel(id)
    expect((await gather(events)).map(bodyOf)).toEqual(answer(1).map(plain))
  })

  it('reaches a stream of another replica, whose readers everywhere see the end', async () => {
    const { here, there } = two()
    const source = fed()
    const { id, events } = here.start(source)
    source.give(head)
    const reading = gather(events)
    const far = gather(await there.resume(id))
    expect(await there.cancel(id)).toBe(true)
    await until(() => source.returned === 1)
    expect(await far).toEqual(await reading)
    expect(await there.cancel(id)).toBe(false)
    expect(here.stats()).toMatchObject({ cancelled: 1 })
    expect(there.stats()).toMatchObject({ resumedElsewhere: 1, readers: 0, cancelled: 0 })
  })
})

describe('what a stream may take', () => {
  const kilobyte = 'x'.repeat(1000)
  async function* endless(onRead: () => void): AsyncGenerator<Chunk, void, undefined> {
    yield head
    for (;;) {
      onRead()
      await delay(0)
      yield text(kilobyte)
    }
  }

  it('is bounded ahead of its fastest client, here or elsewhere, and goes on when that reads', async () => {
    const { here, there } = two({ maxBytes: 1_000_000, maxAheadBytes: 50_000 })
    let reads = 0
    const { id, events } = here.start(endless(() => reads++))
    const settled = async (): Promise<number> => {
      for (let before = -1; before !== reads; await delay(60)) before = reads
      return reads
    }
    expect(await settled()).toBeLessThan(60) // no client has come yet
    expect(reads).toBeGreaterThan(40)
    const slow = events[Symbol.asyncIterator]()
    await slow.next()
    const first = await settled()
    expect(first).toBeLessThan(120)
    const fast = (await here.resume(id))[Symbol.asyncIterator]()
    for (let number = 0; number < 300; number++) await fast.next()
    expect(await settled()).toBeLessThan(420)
    expect(reads).toBeGreaterThan(300)
    const elsewhere = (await there.resume(id))[Symbol.asyncIterator]()
    for (let number = 0; number < 500; number++) await elsewhere.next()
    expect(await settled()).toBeLessThan(640)
    expect(reads).toBeGreaterThan(500)
    await slow.return?.()
    await fast.return?.()
    await elsewhere.return?.()
    await here.cancel(id)
  })

  it('lets the older half of a longer stream go: a client that keeps up goes on, a place that is gone is told', async () => {
    const streams = open({ maxBytes: 50_000 })
    const { id, events } = streams.start(endless(() => {}))
    let last = ''
    for await (const event of events) {
      last = idOf(event)
      if (last.endsWith('/200')) break
    }
    const late = await gather(await streams.resume(`${id}/1`))
    expect(late).toEqual([expect.stringMatching(/^event: error\ndata: \{"code":"protocol"/)])
    const iterator = (await streams.resume(last))[Symbol.asyncIterator]()
    expect(idOf((await iterator.next()).value as string)).toBe(`${id}/201`)
    await iterator.return?.()
    await streams.cancel(id)
  })

  it('is bounded in number: one more is refused, and has not been begun', async () => {
    const streams = open({ maxStreams: 2 })
    const sources = [fed(), fed(), fed()] as const
    const { id } = streams.start(sources[0])
    streams.start(sources[1])
    expect(() => streams.start(sources[2])).toThrow(expect.objectContaining({ code: 'queue-full', details: { limit: 2 } }))
    expect(sources[2].reads).toBe(0)
    await streams.cancel(id)
    streams.start(sources[2])
    expect(streams.stats()).toMatchObject({ running: 2, refused: 1 })
  })

  it('gives a client at most about 64 Ki characters at once', async () => {
    const streams = open()
    const { events } = streams.start(from([head, ...Array.from({ length: 500 }, () => text(kilobyte)), finish]))
    await until(() => streams.stats().finished === 1)
    const iterator = events[Symbol.asyncIterator]()
    let count = 0
    for (let batch = await iterator.nextBatch(); batch !== undefined; batch = await iterator.nextBatch()) {
      count += batch.length
      expect(batch.length).toBeLessThan(70)
    }
    expect(count).toBe(502)
  })

  it('is given up when nobody has read for abandonMs, and not while somebody waits', async () => {
    const { here, there } = two({ abandonMs: 200 })
    const [forgotten, left, stuck, silent, elsewhere] = [fed(), fed(), fed(), fed(), fed()] as const
    const gone = here.start(forgotten)
    const second = here.start(left).events[Symbol.asyncIterator]()
    const third = here.start(stuck).events[Symbol.asyncIterator]()
    const waiting = gather(here.start(silent).events)
    const far = gather(await there.resume(here.start(elsewhere).id))
    left.give(head)
    stuck.give(head)
    await second.next()
    await third.next() // and never again, without leaving
    void second.next()
    await second.return?.()
    await until(() => here.stats().abandoned === 3)
    expect([forgotten.returned, left.returned, stuck.returned]).toEqual([1, 1, 1])
    await delay(600)
    expect([silent.returned, elsewhere.returned]).toEqual([0, 0])
    expect((await gather(gone.events)).map(bodyOf)).toEqual([plain({ type: 'finish', reason: 'cut' })])
    for (const source of [silent, elsewhere]) {
      source.give(finish)
      source.end()
    }
    await Promise.all([waiting, far])
    expect(here.stats()).toMatchObject({ abandoned: 3, finished: 2, running: 0 })
  })

  it('is not given up because the process stood still', async () => {
    const streams = open({ abandonMs: 200 })
    const source = fed()
    const { events } = streams.start(source)
    source.give(head)
    await events[Symbol.asyncIterator]().next()
    const end = performance.now() + 600
    while (performance.now() < end);
    await delay(20)
    expect(streams.stats().abandoned).toBe(0)
    await until(() => streams.stats().abandoned === 1)
  })
})

describe('a client', () => {
  it('ends by its signal, alone, and leaves no listener', async () => {
    const streams = open()
    const source = fed()
    const { id, events } = streams.start(source)
    const other = gather(events)
    const [controller, reason] = [new AbortController(), new Error('enough')]
    const iterator = (await streams.resume(id, { signal: controller.signal }))[Symbol.asyncIterator]()
    const pending = iterator.next().catch((error: unknown) => error)
    await delay(5)
    controller.abort(reason)
    expect(await pending).toBe(reason)
    expect(getEventListeners(controller.signal, 'abort')).toHaveLength(0)
    await expect(streams.resume(id, { signal: controller.signal })).rejects.toBe(reason)
    source.give(finish)
    source.end()
    expect(await other).toHaveLength(1)
  })

  it('is not held up by a shared log that hangs, throws nothing away, and counts what others cannot resume', async () => {
    const stuck: SharedLog = {
      write: () => ({ append: () => {}, end: async () => {}, broken: true }),
      follow: () => from([]) as never,
      tell: () => Promise.reject(new Error('away'))
    }
    const streams = open({ log: stuck })
    const { id, events } = streams.start(from(answer(100)))
    expect(await gather(events)).toHaveLength(102)
    expect(await gather(await streams.resume(`${id}/50`))).toHaveLength(52)
    await until(() => streams.stats().unshared === 1)
    await expect(streams.resume(`${'A'.repeat(22)}/1`)).rejects.toThrow('away')
    await expect(streams.cancel('A'.repeat(22))).rejects.toThrow('away')
  })
})

describe('close', () => {
  it('lets streams finish, then ends them with an error event; refuses what is new', async () => {
    const { here, there } = two()
    const [quick, slow] = [fed(), fed()]
    const [one, other] = [here.start(quick), here.start(slow)]
    const readings = [gather(one.events), gather(other.events), gather(await there.resume(other.id))]
    const closing = here.close({ graceMs: 300 })
    expect(() => here.start(fed())).toThrow(expect.objectContaining({ code: 'closed' }))
    await expect(here.resume(one.id)).rejects.toMatchObject({ code: 'closed' })
    quick.give(finish)
    quick.end()
    slow.give(text('half'))
    expect((await readings[0])?.map(bodyOf)).toEqual([plain(finish)])
    await closing
    await here.close()
    for (const reading of readings.slice(1)) {
      expect((await reading)?.map(bodyOf)).toEqual([
        plain(text('half')),
        expect.stringMatching(/^event: error\ndata: \{"code":"closed"/)
      ])
    }
    expect(slow.returned).toBe(1)
    expect(here.stats()).toMatchObject({ finished: 1, failed: 1, running: 0, readers: 0 })
  })

  it('ends the readers of streams elsewhere with an error event, so that they go on with another replica', async () => {
    const { here, there } = two()
    const source = fed()
    const { id } = here.start(source)
    source.give(head)
    const reading = gather(await there.resume(id))
    await delay(20)
    await there.close({ graceMs: 0 })
    expect(await reading).toEqual([
      `id: ${id}/1\n${plain(head)}`,
      expect.stringMatching(/^event: error\ndata: \{"code":"closed"/)
    ])
    expect(here.stats().running).toBe(1)
  })

  it('refuses and ends all readers of streams elsewhere, also those that come or begin meanwhile', async () => {
    const { here, there } = two()
    const source = fed()
    const { id } = here.start(source)
    source.give(head)
    const before = await there.resume(id)
    const unknown = 'A'.repeat(22)
    const during = [there.resume(id), there.resume(unknown)].map((resumed) => resumed.catch((error: unknown) => error))
    await there.close({ graceMs: 0 })
    expect(await gather(before)).toEqual([expect.stringMatching(/^event: error\ndata: \{"code":"closed"/)])
    for (const refused of during) expect(await refused).toMatchObject({ code: 'closed' })
    expect(await there.cancel(id)).toBe(false)
    expect(there.stats().readers).toBe(0)
    expect(here.stats().running).toBe(1)
  })

  it('is not waited for: readers that are forgotten half-read are no readers, here and elsewhere, and hold nothing', async () => {
    const { here, there } = two({ keepMs: 1 })
    async function forget(): Promise<void> {
      const { id, events } = here.start(from(answer(1000)))
      await events[Symbol.asyncIterator]().next()
      await (await there.resume(id))[Symbol.asyncIterator]().next()
    }
    for (let number = 0; number < 50; number++) await forget()
    await until(async () => {
      await heapAfterGc()
      await delay(5)
      return here.stats().readers === 0 && there.stats().readers === 0
    })
  })

  it('and what a reader alone waits for is not forgotten', async () => {
    const streams = open()
    const source = fed()
    const pending = streams.start(source).events[Symbol.asyncIterator]().next()
    await heapAfterGc()
    await delay(5)
    await heapAfterGc()
    await delay(5)
    source.give(head)
    expect((await pending).value).toMatch(/"start"/)
  })

  it('leaves nothing behind: 500 streams at once, 3,000 in all, some left, some cancelled, some broken', async () => {
    const probe = probeLeaks()
    const streams = createStreams({ keepMs: 1, maxStreams: 500 })
    async function use(number: number): Promise<void> {
      async function* source(): AsyncGenerator<Chunk, void, undefined> {
        yield head
        await delay(1)
        yield text('a'.repeat(500))
        if (number % 5 === 1) throw new Error('broken')
        if (number % 5 === 2) await delay(20)
        yield finish
      }
      const { id, events } = streams.start(source())
      const iterator = events[Symbol.asyncIterator]()
      await iterator.next()
      if (number % 5 === 2) await streams.cancel(id)
      if (number % 5 === 3) await iterator.return?.()
      if (number % 5 === 4) await gather(await streams.resume(`${id}/1`))
      for (let result = await iterator.next(); result.done !== true; result = await iterator.next());
    }
    async function rounds(count: number): Promise<void> {
      for (let round = 0; round < count; round++) {
        await Promise.all(Array.from({ length: 500 }, (_, number) => use(number)))
        await until(() => streams.stats().running === 0)
      }
      await delay(50)
    }
    await rounds(2)
    const before = await heapAfterGc()
    await rounds(6)
    expect((await heapAfterGc()) - before).toBeLessThan(500_000)
    expect(streams.stats()).toMatchObject({ running: 0, readers: 0, started: 4000, failed: 800, cancelled: 800, abandoned: 0 })
    await streams.close()
    await probe.check()
  })
})
