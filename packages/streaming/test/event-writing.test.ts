import { getEventListeners } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
import { type Chunk, type ChunkIterator, createLog, isMillraceError, MillraceError } from '@millrace/core'
import { describe, expect, onTestFinished, test, vi } from 'vitest'
import { beginWriting, type EventWriting } from '../src/event-writing.ts'
import { openaiEvents } from '../src/openai-events.ts'
import { checkWriting, type SSESource, type SSEWriteOptions } from '../src/sse-options.ts'
import { fed, finish, from, start, text } from './source.ts'

async function readAll(writing: EventWriting): Promise<string[]> {
  const pieces: string[] = []
  for (;;) {
    const piece = await writing.read()
    pieces.push(piece.text)
    if (piece.last) return pieces
  }
}

const event = (chunk: Chunk): string => `data: ${JSON.stringify(chunk)}\n\n`

/** All chunks in one batch, then the end, which it says with the batch when `tells`. */
function batch(chunks: readonly (Chunk | string)[], tells: 'tells' | 'silent' = 'tells'): AsyncIterable<Chunk | string> {
  let read = false
  const iterator: ChunkIterator<Chunk | string> = {
    next: () => Promise.reject(new Error('reads one by one')),
    async nextBatch() {
      if (read) return undefined
      read = true
      return chunks
    },
    get ended() {
      return tells === 'tells' && read
    }
  }
  return { [Symbol.asyncIterator]: () => iterator }
}

describe('pieces', () => {
  test('what is ready together is one piece, with the end if it is known', async () => {
    expect(await readAll(beginWriting(batch([start, text('a'), finish]), {}))).toEqual([
      event(start) + event(text('a')) + event(finish)
    ])
    expect(await readAll(beginWriting(batch([start, finish], 'silent'), {}))).toEqual([event(start) + event(finish), ''])
  })

  test('a piece is bounded, whatever is ready', async () => {
    const chunks = [start, ...Array.from({ length: 3000 }, () => text('x'.repeat(100))), finish]
    const pieces = await readAll(beginWriting(batch(chunks), {}))
    expect(pieces.join('')).toBe(chunks.map(event).join(''))
    expect(pieces.length).toBeGreaterThan(4)
    for (const piece of pieces) expect(piece.length).toBeLessThan(65_536 + 200)
  })

  test('ready texts go out as they are, without an end of ours', async () => {
    const texts = ['id: s/0\ndata: a\n\n', '', 'id: s/1\ndata: b\n\n']
    expect((await readAll(beginWriting(batch(texts), { format: openaiEvents() }))).join('')).toBe(texts.join(''))
  })

  test('the source is read only while somebody waits for a piece', async () => {
    const source = fed()
    const writing = beginWriting(source, {})
    await delay(5)
    expect(source.reads).toBe(0)
    const first = writing.read()
    source.give(start)
    expect((await first).text).toBe(event(start))
    source.give(text('a'))
    await delay(5)
    expect(source.reads).toBe(1)
    writing[Symbol.dispose]()
  })

  test('reads a log of ready texts, its backlog in one piece', async () => {
    const log = createLog<string>()
    log.append('data: 0\n\n')
    log.append('data: 1\n\n')
    const writing = beginWriting(log.follow(0), {})
    expect((await writing.read()).text).toBe('data: 0\n\ndata: 1\n\n')
    log.append('data: 2\n\n')
    log.end()
    expect((await readAll(writing)).join('')).toBe('data: 2\n\n')
  })
})

describe('a stream that breaks', () => {
  const closed = new MillraceError('closed', 'secret', { details: {} })

  test('gives what came before, then one error event and no end', async () => {
    const source = fed()
    const errors: unknown[] = []
    const writing = beginWriting(source, { format: openaiEvents(), onError: (error) => errors.push(error) })
    for (const chunk of [start, text('so far')]) source.give(chunk)
    source.fail(closed)
    const all = (await readAll(writing)).join('')
    expect(all).toContain('so far')
    expect(all).not.toContain('[DONE]')
    expect(all).toMatch(/data: {"error":{"message":"the service is closing".*}\n\n$/)
    expect(errors).toEqual([closed])
    expect(writing.failure?.error).toBe(closed)
    expect(source.returned).toBe(0)
  })

  test('for lack of a finish is no whole answer', async () => {
    const all = (await readAll(beginWriting(from([start, text('half')]), { format: openaiEvents() }))).join('')
    expect(all).toContain('"code":"protocol"')
    expect(all).not.toContain('[DONE]')
    expect((await readAll(beginWriting(from([]), { format: openaiEvents() }))).join('')).toContain('"code":"protocol"')
  })

  test.each(['write', 'end', 'begin'] as const)('in %s of the format leaves the source', async (at) => {
    const source = fed()
    const fails = (): never => {
      throw new Error('secret')
    }
    const writer = { write: event, end: () => '', fail: () => 'event: error\ndata: {}\n\n' }
    let begun = 0
    const format = {
      begin: () => (at === 'begin' && ++begun === 1 ? fails() : { ...writer, ...(at === 'begin' ? {} : { [at]: fails }) })
    }
    const errors: unknown[] = []
    const writing = beginWriting(source, { format, onError: (error) => errors.push(error) })
    source.give(start)
    source.give(finish)
    source.end()
    const all = (await readAll(writing)).join('')
    const error = 'event: error\ndata: {}\n\n'
    expect(all).toBe(at === 'end' ? event(start) + event(finish) + error : error)
    expect(source.returned).toBe(at === 'end' ? 0 : 1)
    expect(errors).toEqual([new Error('secret')])
  })

  test.each([undefined, openaiEvents()])('for lack of anything at all is no answer, whatever the format', async (format) => {
    const errors: unknown[] = []
    const all = (await readAll(beginWriting(from([]), { format, onError: (error) => errors.push(error) }))).join('')
    expect(all).toContain('"code":"protocol"')
    expect(isMillraceError(errors[0], 'protocol')).toBe(true)
    await expect(beginWriting(from([]), { format }).head()).rejects.toMatchObject({ code: 'protocol' })
    await expect(beginWriting(from([start]), { format }).head()).rejects.toMatchObject({ code: 'protocol' })
  })

  test('and a source of ready texts that had none left has not broken', async () => {
    const none = Object.assign(batch([]), { readyTexts: true as const })
    for (const format of [undefined, openaiEvents()]) {
      const writing = beginWriting(none, { format })
      expect(await writing.head()).toEqual({ notes: {}, ready: true })
      expect(await readAll(writing)).toEqual([''])
    }
  })

  test.each<[string, unknown]>([
    ['an event of the OpenAI SDK', { id: 'x', object: 'chat.completion.chunk', choices: [] }],
    ['a text chunk without text', { type: 'text' }],
    ['a tool call without arguments', { type: 'tool-call', index: 0, id: 'a' }],
    ['a finish without a reason', { type: 'finish' }],
    ['an extra without a value', { type: 'extra', name: 'logprobs' }],
    ['null', null],
    ['a number', 7]
  ])('on %s says so, with a protocol error', async (_, item) => {
    for (const format of [undefined, openaiEvents()]) {
      const errors: unknown[] = []
      const writing = beginWriting(from([start, text('a'), item as Chunk]), { format, onError: (error) => errors.push(error) })
      await writing.head()
      const all = (await readAll(writing)).join('')
      expect(all).toContain('"code":"protocol"')
      expect(all).not.toMatch(/undefined|DONE/)
      expect(String(errors)).toMatch(/of @millrace\/core/)
    }
  })

  test('on what is no chunk is refused before the head, at once', async () => {
    const source = fed()
    const writing = beginWriting(source, { headWithinMs: 60_000 })
    source.give(start)
    source.give({ id: 'x', choices: [] } as never)
    await expect(writing.head()).rejects.toThrow('an OpenAI SDK stream is one of events, not of chunks')
    expect(source.returned).toBe(1)
  })

  test.each<unknown>(['data: half', undefined, 7, 'undefined'])('on %j of a format instead of whole events', async (written) => {
    const told = 'event: error\ndata: {}\n\n'
    for (const at of ['write', 'end'] as const) {
      const errors: unknown[] = []
      const writer = { write: event, end: () => '', fail: () => told, [at]: () => written as string }
      const format = { begin: () => writer }
      const writing = beginWriting(from([start, finish]), { format, onError: (error) => errors.push(error) })
      expect((await readAll(writing)).join('')).toBe(`${at === 'end' ? event(start) + event(finish) : ''}${told}`)
      expect(String(errors)).toContain('TypeError: a format must give whole events')
    }
    const wrong = { begin: () => ({ write: event, end: () => '', fail: () => written as string }) }
    expect((await readAll(beginWriting(from([start]), { format: wrong }))).join('')).toBe(event(start))
  })

  test('writes what came before the chunk that cannot be written', async () => {
    const cyclic: Record<string, unknown> = {}
    cyclic.self = cyclic
    const all = await readAll(
      beginWriting(batch([start, text('a'), { type: 'extra', name: 'x', value: cyclic as never }, text('b')]), {})
    )
    expect(all.join('')).toBe(
      `${event(start)}${event(text('a'))}event: error\ndata: {"code":"internal","message":"the stream failed","retryable":false}\n\n`
    )
  })

  test('a text that is no whole event is refused, not written', async () => {
    const errors: unknown[] = []
    const all = await readAll(beginWriting(batch(['Hello']), { onError: (error) => errors.push(error) }))
    expect(all.join('')).not.toContain('Hello')
    expect(String(errors[0])).toContain('must be whole events')
    await expect(beginWriting(batch(['Hello']), {}).head()).rejects.toThrow('give ready events, or chunks with a format')
  })

  test.each([
    ['a promise of a stream', async () => from([])],
    ['a promise that fails', () => Promise.reject(new Error('later'))],
    ['nothing', () => undefined]
  ])('when its function gives %s', async (_, source) => {
    let signal: AbortSignal | undefined
    const writing = beginWriting(
      ((given: AbortSignal) => {
        signal = given
        return source()
      }) as never,
      {}
    )
    await expect(writing.head()).rejects.toThrow(/^the function must give an async iterable, not a promise of one/)
    expect(signal?.aborted).toBe(true)
  })

  test('when it cannot even begin', async () => {
    const source: SSESource = () => {
      throw closed
    }
    expect((await readAll(beginWriting(source, {}))).join('')).toContain('"code":"closed"')
  })
})

describe('heartbeats', () => {
  test('come in silence, before the first chunk too, one for each limit', async () => {
    const source = fed()
    const writing = beginWriting(source, { heartbeatMs: 30 })
    const bare = delay(30).then(() => performance.now())
    const begun = performance.now()
    expect(await writing.read()).toEqual({ text: ':\n\n', last: false })
    const took = performance.now() - begun
    expect(took).toBeGreaterThanOrEqual(29)
    expect(took).toBeLessThan((await bare) - begun + 100)
    expect((await writing.read()).text).toBe(':\n\n')
    const third = writing.read()
    source.give(start)
    expect((await third).text).toBe(event(start))
    expect(source.reads).toBe(1)
    writing[Symbol.dispose]()
  })

  test('do not come while a slow reader is at work, nor pile up for it', async () => {
    const source = fed()
    const writing = beginWriting(source, { heartbeatMs: 20 })
    await writing.read()
    await delay(100)
    source.give(start)
    expect((await writing.read()).text).toBe(event(start))
    writing[Symbol.dispose]()
  })

  test('none with Infinity', async () => {
    const source = fed()
    const writing = beginWriting(source, { heartbeatMs: Number.POSITIVE_INFINITY })
    const read = writing.read()
    expect(await Promise.race([read, delay(50, 'silence')])).toBe('silence')
    writing[Symbol.dispose]()
    expect(await read).toEqual({ text: '', last: true })
  })
})

describe('the head', () => {
  test('waits for the first content and knows the notes before it', async () => {
    const source = fed()
    const writing = beginWriting(source, {})
    const head = writing.head()
    source.give(start)
    source.give({ type: 'note', from: 'cache', facts: { state: 'hit' } })
    source.give(text(''))
    expect(await Promise.race([head, delay(20, 'waiting')])).toBe('waiting')
    source.give(text('a'))
    expect(await head).toEqual({ notes: { cache: { state: 'hit' } }, ready: true })
    source.give(finish)
    source.end()
    expect((await readAll(writing)).join('')).toBe([start, text(''), text('a'), finish].map(event).join(''))
  })

  test('does not wait longer than it may, and loses nothing', async () => {
    const source = fed()
    const writing = beginWriting(source, { headWithinMs: 20 })
    source.give(start)
    expect(await writing.head()).toEqual({ notes: {}, ready: false })
    source.give(text('late'))
    source.give(finish)
    source.end()
    expect((await readAll(writing)).join('')).toBe([start, text('late'), finish].map(event).join(''))
  })

  test('does not read at all when it may not wait', async () => {
    const source = fed()
    const writing = beginWriting(source, { headWithinMs: 0 })
    await writing.head()
    expect(source.reads).toBe(0)
    writing[Symbol.dispose]()
  })

  test.each(['an empty', 'a started'])('rejects with what %s source failed with, told nowhere else', async (which) => {
    const source = fed()
    const errors: unknown[] = []
    const writing = beginWriting(source, { onError: (error) => errors.push(error) })
    if (which === 'a started') source.give(start)
    source.fail('broken')
    await expect(writing.head()).rejects.toBe('broken')
    await delay(5)
    expect(errors).toEqual([])
    expect(await writing.read()).toEqual({ text: '', last: true })
  })

  test('comes when a failure is behind the first content', async () => {
    const content = [start, text('a')]
    const iterator = {
      nextBatch: () => (content.length > 0 ? Promise.resolve(content.splice(0)) : Promise.reject(new Error('later')))
    }
    const writing = beginWriting({ [Symbol.asyncIterator]: () => iterator as never }, {})
    await writing.head()
    expect((await readAll(writing)).join('')).toMatch(/"text":"a"[^]*event: error/)
  })

  test('is not kept back by a flood without content', async () => {
    const writing = beginWriting(
      (async function* () {
        for (;;) yield text('')
      })(),
      { headWithinMs: 60_000 }
    )
    expect((await writing.head()).ready).toBe(true)
    writing[Symbol.dispose]()
  })
})

describe('leaving', () => {
  test('reaches the source at once, while it is being read', async () => {
    const source = fed()
    const writing = beginWriting(source, {})
    const read = writing.read()
    writing[Symbol.dispose]()
    expect(source.returned).toBe(1)
    expect(await read).toEqual({ text: '', last: true })
    writing[Symbol.dispose]()
    expect(source.returned).toBe(1)
  })

  test('aborts a generator that is busy', async () => {
    let aborted: unknown
    const writing = beginWriting(async function* (signal) {
      yield start
      await delay(60_000, undefined, { signal }).catch((error: Error) => {
        aborted = error
      })
    }, {})
    await writing.read()
    void writing.read()
    writing[Symbol.dispose]()
    await expect.poll(() => aborted).toBeDefined()
  })

  test('tells what the source throws on being left', async () => {
    const errors: unknown[] = []
    for (const fails of [() => Promise.reject(new Error('rejects')), () => (errors.length, fail())]) {
      const iterator = { next: () => new Promise<never>(() => {}), return: fails }
      const writing = beginWriting({ [Symbol.asyncIterator]: () => iterator }, { onError: (error) => errors.push(error) })
      void writing.read()
      writing[Symbol.dispose]()
    }
    await delay(5)
    expect(errors.map(String).toSorted()).toEqual(['Error: rejects', 'Error: throws'])
  })

  test('leaves no listener and no timer behind, a thousand times', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })
    onTestFinished(() => void vi.useRealTimers())
    const controller = new AbortController()
    const { signal } = controller
    const options: SSEWriteOptions = { signal, heartbeatMs: 60_000, maxDurationMs: 60_000 }
    for (let round = 0; round < 250; round++) {
      using whole = beginWriting(from([start, finish]), options)
      await readAll(whole)
      using left = beginWriting(fed(), options)
      void left.read()
      if (round === 0) expect(vi.getTimerCount()).toBeGreaterThan(1)
      const source = fed()
      source.fail('broken')
      using broken = beginWriting(source, options)
      await broken.head().catch(() => {})
      using unread = beginWriting(fed(), options)
      expect(unread.failure).toBeUndefined()
    }
    expect(getEventListeners(signal, 'abort')).toEqual([])
    expect(vi.getTimerCount()).toBe(0)
  })
})

function fail(): never {
  throw new Error('throws')
}

describe('a signal', () => {
  test('ends the stream with its reason, the source first', async () => {
    const source = fed()
    const controller = new AbortController()
    const writing = beginWriting(source, { signal: controller.signal })
    source.give(start)
    await writing.read()
    const read = writing.read()
    controller.abort(new MillraceError('closed', 'shutting down', { details: {} }))
    expect(source.returned).toBe(1)
    expect((await read).text).toContain('"code":"closed"')
  })

  test('rejects the head, and begins nothing when it had aborted before', async () => {
    const source = fed()
    const controller = new AbortController()
    const head = beginWriting(source, { signal: controller.signal }).head()
    controller.abort('enough')
    await expect(head).rejects.toBe('enough')
    expect(source.returned).toBe(1)
    await expect(beginWriting(source, { signal: controller.signal }).head()).rejects.toBe('enough')
    expect(source.reads).toBe(1)
  })
})

test('the longest duration ends a stream that goes on, with a typed error', async () => {
  let expired = 0
  const source = fed()
  const writing = beginWriting(source, { maxDurationMs: 40, heartbeatMs: 15 }, () => expired++)
  source.give(start)
  const bare = delay(40).then(() => performance.now())
  const begun = performance.now()
  const all = (await readAll(writing)).join('')
  expect(performance.now() - begun).toBeLessThan((await bare) - begun + 100)
  expect(all).toMatch(/:\n\nevent: error\ndata: {"code":"timeout","message":"the answer took too long","retryable":true}\n\n$/)
  expect([source.returned, expired]).toEqual([1, 1])
  expect(isMillraceError(writing.failure?.error, 'timeout')).toBe(true)
})

test.each<[object, string]>([
  [{ heartbeatMs: 0 }, 'heartbeatMs must be milliseconds above 0'],
  [{ headWithinMs: -1 }, 'headWithinMs must be milliseconds from 0 up'],
  [{ maxDurationMs: Number.NaN }, 'maxDurationMs must be milliseconds above 0'],
  [{ status: 204 }, 'status must be a status with a body'],
  [{ headers: new Headers({ a: 'b' }) }, 'headers must be a plain object'],
  [{ format: 'openai' }, 'format must be a format of events'],
  [{ onError: 1 }, 'onError must be a function'],
  [{ signal: 'x' }, 'signal must be an AbortSignal'],
  [{ heartbeat: 1 }, 'has no option "heartbeat"']
])('refuses %o', (options, message) => {
  expect(() => checkWriting('writeSSE', from([]), options)).toThrow(message)
})

test('refuses a source that is none', () => {
  expect(() => checkWriting('writeSSE', [] as never, {})).toThrow('writeSSE takes an async iterable of chunks, or a function')
})
