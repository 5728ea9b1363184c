import { createHash } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import fc from 'fast-check'
import { describe, expect, it, test } from 'vitest'
import { createSSEParser, isMillraceError, parseSSE, type ServerSentEvent, type SSEOptions } from '../src/index.ts'
import { suite } from './real.ts'

const encoder = new TextEncoder()

/** Events before and from `end()`, apart: a browser never dispatches the second kind. */
function parse(pieces: Iterable<Uint8Array>, options?: SSEOptions) {
  const events: ServerSentEvent[] = []
  const parser = createSSEParser((event) => events.push(event), options)
  for (const piece of pieces) parser.push(piece)
  const before = [...events]
  parser.end()
  return { before, atEnd: events.slice(before.length), retryMs: parser.retryMs }
}

const parseText = (text: string, options?: SSEOptions) => parse([encoder.encode(text)], options)

function* cut(bytes: Uint8Array, size: () => number): Generator<Uint8Array> {
  for (let at = 0; at < bytes.length; ) {
    const length = Math.max(1, size())
    yield bytes.subarray(at, at + length)
    at += length
  }
}

/** Cut once, at each place there is. */
function* inTwo(bytes: Uint8Array): Generator<Uint8Array[]> {
  for (let at = 0; at <= bytes.length; at++) yield [bytes.subarray(0, at), bytes.subarray(at)]
}

/** A repeatable source of cuts: the seed stands in the name of the test. */
function dice(seed: number): (max: number) => number {
  let state = seed
  return (max) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return 1 + (state % max)
  }
}

describe('the vectors of browsers', () => {
  const folder = suite('sse')
  interface Vector {
    name: string
    input_hex?: string
    expected?: { type: string; data: string; lastEventId: string }[]
  }
  const vectors = folder
    ? readFileSync(new URL('vectors.jsonl', folder), 'utf8')
        .split('\n')
        .filter((line) => line !== '')
        .map((line) => JSON.parse(line) as Vector)
    : []

  test.skipIf(!folder)('are all there', () => {
    expect(vectors.length).toBeGreaterThan(50)
  })

  for (const { name, input_hex, expected } of vectors) {
    if (input_hex === undefined || expected === undefined) continue
    const bytes = Buffer.from(input_hex, 'hex')
    const wanted = expected.map(({ type, data, lastEventId }) => ({ event: type, data, id: lastEventId }))
    it(`gives the events of ${name} at any cut (seed 7)`, () => {
      expect(parse([bytes]).before).toEqual(wanted)
      expect(parse(cut(bytes, () => 1)).before).toEqual(wanted)
      if (bytes.length < 2000) for (const pieces of inTwo(bytes)) expect(parse(pieces).before).toEqual(wanted)
      const roll = dice(7)
      for (let run = 0; run < 100; run++) expect(parse(cut(bytes, () => roll(5))).before).toEqual(wanted)
    })
  }

  it('gives an event of 5 MB under a raised bound', () => {
    const data = createHash('sha256').update('a').digest('base64').repeat(119_000)
    const bytes = encoder.encode(`data: ${data}\n\n`)
    const roll = dice(11)
    const { before } = parse(
      cut(bytes, () => roll(70_000)),
      { maxEventChars: 6_000_000 }
    )
    expect(before.map((event) => event.data === data)).toEqual([true])
  })
})

describe('createSSEParser', () => {
  it('dispatches a last event without a blank line at the end, where a browser drops it', () => {
    for (const tail of ['data: b', 'data: b\n', 'data: b\r', 'data: b\r\n']) {
      const { before, atEnd } = parseText(`data: a\n\n${tail}`)
      expect(before.map(({ data }) => data)).toEqual(['a'])
      expect(atEnd.map(({ data }) => data)).toEqual(['b'])
    }
  })

  it('dispatches nothing at the end where no data is left', () => {
    for (const text of ['', 'data: a\n\n', 'data: a\n\nevent: ping\n', 'data: a\n\n: bye']) {
      expect(parseText(text).atEnd).toEqual([])
    }
  })

  it('gives the name of an event to that event only, dispatched or not', () => {
    const { before } = parseText('event: a\ndata: 1\n\ndata: 2\n\nevent: b\n\ndata: 3\n\n')
    expect(before.map(({ event }) => event)).toEqual(['a', 'message', 'message'])
  })

  it('keeps the time to reconnect, and ignores one that is no number', () => {
    expect(parseText('data: a\n\n').retryMs).toBeUndefined()
    expect(parseText('retry: 2000\nretry: 1000x\nretry: -1\nretry:\n\n').retryMs).toBe(2000)
  })

  it('reads the same events whatever the line ends and the cuts are (seed 42)', () => {
    const line = fc.string({ unit: fc.constantFrom('a', ':', ' ', 'é', '😀', '\0', '﻿', '\t'), maxLength: 12 })
    const event = fc.record({ data: fc.array(line, { minLength: 1, maxLength: 4 }), name: line })
    const ends = fc.constantFrom('\n', '\r', '\r\n')
    fc.assert(
      fc.property(
        fc.array(event, { maxLength: 6 }),
        ends,
        fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1 }),
        (events, end, sizes) => {
          const text = events
            .map(({ data, name }) => [`event: ${name}`, ...data.map((value) => `data: ${value}`), '', ''].join(end))
            .join('')
          let next = 0
          const { before, atEnd } = parse(cut(encoder.encode(text), () => sizes[next++ % sizes.length] as number))
          expect(before).toEqual(
            events.map(({ data, name }) => ({ event: name === '' ? 'message' : name, data: data.join('\n'), id: '' }))
          )
          expect(atEnd).toEqual([])
        }
      ),
      { seed: 42, numRuns: 500 }
    )
  })

  it('never throws on bytes of any kind, and gives the same events at any cut (seed 43)', () => {
    const bytes = fc.uint8Array({ maxLength: 200 })
    const soup = fc.array(fc.constantFrom('data', ':', ' ', '\n', '\r', 'id', 'event', 'retry', '\xEF', 'x'), { maxLength: 60 })
    const input = fc.oneof(
      bytes,
      soup.map((words) => Uint8Array.from(Buffer.from(words.join(''), 'latin1')))
    )
    fc.assert(
      fc.property(input, fc.integer({ min: 1, max: 7 }), (body, size) => {
        expect(parse(cut(body, () => size))).toEqual(parse([body]))
      }),
      { seed: 43, numRuns: 2000 }
    )
  })

  it('refuses an event longer than maxEventChars, in one line or in many, and one line that never ends', () => {
    const limit = { maxEventChars: 100 }
    expect(parseText(`data: ${'a'.repeat(100)}\n\n`, limit).before).toHaveLength(1)
    for (const text of [
      `data: ${'a'.repeat(101)}\n\n`,
      'data: aaaaaaaaa\n'.repeat(11),
      'a'.repeat(101),
      `: ${'a'.repeat(99)}`,
      `data: ${'a'.repeat(60)}\n${'b'.repeat(41)}`
    ]) {
      expect(() => parseText(text, limit)).toThrow('longer than 100 characters (maxEventChars)')
    }
    const whole = encoder.encode('data: ')
    const filler = encoder.encode('a'.repeat(65_536))
    const parser = createSSEParser(() => {})
    parser.push(whole)
    let pushed = 0
    try {
      for (; pushed < 100; pushed++) parser.push(filler)
    } catch (error) {
      expect(isMillraceError(error, 'protocol') && error.details.reason).toBe('too-large')
    }
    expect(pushed).toBe(15) // 1 MiB by default
  })

  it('says what to write instead of a wrong bound', () => {
    for (const maxEventChars of [0, -1, Number.NaN]) {
      expect(() => createSSEParser(() => {}, { maxEventChars })).toThrow(TypeError)
    }
  })

  // The yardstick is the decoder alone on the same slivers, so that the machine's speed cancels out.
  it('takes time linear in the bytes of a line of 10 MB that comes in slivers of 1 to 16 bytes', () => {
    const bytes = encoder.encode(`data: ${'abcdefghij'.repeat(1_000_000)}\n\n`)
    const slivers = (): Generator<Uint8Array> => {
      const roll = dice(5)
      return cut(bytes, () => roll(16))
    }
    const decodeMs = timed(() => {
      const decoder = new TextDecoder()
      let chars = 0
      for (const sliver of slivers()) chars += decoder.decode(sliver, { stream: true }).length
      expect(chars).toBe(bytes.length)
    })
    const parseMs = timed(() => {
      expect(parse(slivers(), { maxEventChars: 20_000_000 }).before).toHaveLength(1)
    })
    expect(parseMs).toBeLessThan(decodeMs * 5 + 500)
  })

  it.each(['\n', '\r', '\r\n'])('takes time linear in the data lines of one event that end in %j', (end) => {
    const lines = (count: number): Uint8Array => encoder.encode(`${`data: 12345${end}`.repeat(count)}${end}`)
    const few = lines(10_000)
    const many = lines(100_000)
    const fewMs = timed(() => {
      for (let run = 0; run < 10; run++) expect(parse([few]).before).toHaveLength(1)
    })
    const manyMs = timed(() => {
      expect(parse([many]).before[0]?.data).toHaveLength(600_000 - 1)
    })
    expect(manyMs).toBeLessThan(fewMs * 5 + 200)
  })
})

describe('bytes that are no UTF-8', () => {
  const folder = suite('utf8')
  const file = (name: string): Buffer => readFileSync(new URL(name, folder))

  test.skipIf(!folder)('become what TextDecoder makes of them, at every cut (seed 3)', () => {
    for (const name of ['utf8tests.bin', 'utf8tests.txt', 'utf8.replace.ref.txt']) {
      for (const line of splitLines(file(name))) {
        const body = Buffer.concat([Buffer.from('data:x'), line, Buffer.from('\n\n')])
        const wanted = `x${new TextDecoder('utf-8', { ignoreBOM: true }).decode(line)}`
        const roll = dice(3)
        for (const pieces of [[body], cut(body, () => 1), cut(body, () => roll(4)), ...inTwo(body)]) {
          expect(parse(pieces).before.map(({ data }) => data)).toEqual([wanted])
        }
      }
    }
  })

  it('become what TextDecoder makes of them, whatever they are and wherever they are cut (seed 44)', () => {
    // Where the standard's table of byte ranges changes: first bytes, continuations, overlong forms, surrogates, too large ones.
    const edges = [
      0x41, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbb, 0xbf, 0xc0, 0xc1, 0xc2, 0xdf, 0xe0, 0xe1, 0xed, 0xef, 0xf0, 0xf1
    ]
    const byte = fc.constantFrom(...edges, 0xf4, 0xf5, 0xf8, 0xfc, 0xfe, 0xff)
    fc.assert(
      fc.property(fc.array(byte, { maxLength: 12 }), (bytes) => {
        const body = Buffer.from([...Buffer.from('data:x'), ...bytes, 10, 10])
        const wanted = `x${new TextDecoder('utf-8', { ignoreBOM: true }).decode(Buffer.from(bytes))}`
        for (const pieces of [[body], cut(body, () => 1), ...inTwo(body)]) {
          expect(parse(pieces).before.map(({ data }) => data)).toEqual([wanted])
        }
        // The bytes end there.
        expect(parse(cut(body.subarray(0, -2), () => 1)).atEnd.map(({ data }) => data)).toEqual([wanted])
      }),
      { seed: 44, numRuns: 1000 }
    )
  })
})

describe('JSON texts in data lines', () => {
  const folder = suite('json')
  const texts = new URL('test_parsing/', folder)

  test.skipIf(!folder)('come out as they went in, line by line, at every cut (seed 6)', () => {
    const names = readdirSync(texts)
    expect(names.length).toBeGreaterThan(300)
    for (const name of names) {
      const lines = [...splitLines(readFileSync(new URL(encodeURIComponent(name), texts)))]
      const body = Buffer.concat([
        ...lines.flatMap((line) => [Buffer.from('data: '), line, Buffer.from('\r\n')]),
        Buffer.from('\r\n')
      ])
      const wanted = lines.map((line) => new TextDecoder('utf-8', { ignoreBOM: true }).decode(line)).join('\n')
      const roll = dice(6)
      for (const pieces of [[body], cut(body, () => roll(9)), ...(body.length < 300 ? inTwo(body) : [])]) {
        expect(parse(pieces).before.map(({ data }) => data)).toEqual([wanted])
      }
    }
  })
})

describe('parseSSE', () => {
  async function* bodyOf(...batches: (string | readonly string[])[]) {
    for (const batch of batches)
      yield typeof batch === 'string' ? encoder.encode(batch) : batch.map((text) => encoder.encode(text))
  }

  it('reads single pieces and batches of pieces', async () => {
    const data: string[] = []
    for await (const event of parseSSE(bodyOf('data: a\n\nda', ['ta: b', '\n\n', 'data: c']))) data.push(event.data)
    expect(data).toEqual(['a', 'b', 'c'])
  })

  it('reads the body of a fetch response', async () => {
    const data: string[] = []
    const body = new Response('data: a\n\ndata: b\n\n').body
    if (body === null) throw new Error('no body')
    for await (const event of parseSSE(body)) data.push(event.data)
    expect(data).toEqual(['a', 'b'])
  })

  it('gives the events before a fault, then the fault', async () => {
    const data: string[] = []
    const reading = (async () => {
      for await (const event of parseSSE(bodyOf(`data: a\n\ndata: b\n\n${'x'.repeat(20)}`), { maxEventChars: 10 }))
        data.push(event.data)
    })()
    await expect(reading).rejects.toThrow('longer than 10 characters')
    expect(data).toEqual(['a', 'b'])
  })

  it('closes the body when the reader leaves', async () => {
    let closed = false
    async function* endless() {
      try {
        for (;;) yield encoder.encode('data: a\n\n')
      } finally {
        closed = true
      }
    }
    for await (const event of parseSSE(endless())) {
      expect(event.data).toBe('a')
      break
    }
    expect(closed).toBe(true)
  })
})

function timed(work: () => void): number {
  const startedAt = performance.now()
  work()
  return performance.now() - startedAt
}

/** The lines of a file, without their ends: a line end inside would cut the event. */
function* splitLines(bytes: Buffer): Generator<Buffer> {
  let start = 0
  for (let at = 0; at <= bytes.length; at++) {
    if (at < bytes.length && bytes[at] !== 10 && bytes[at] !== 13) continue
    yield bytes.subarray(start, at)
    start = at + 1
  }
}
