import { loadRecordings, seededRandom } from '@millrace/testkit'
import { describe, expect, test } from 'vitest'
import { createSSEParser, parseSSE, type ServerSentEvent } from '../src/index.ts'

/** All APIs whose recorded streams are server-sent events. */
const apis = [
  'anthropic.messages',
  'cohere.v1.chat',
  'cohere.v2.chat',
  'gemini.generateContent',
  'gemini.interactions',
  'openai.chat',
  'openai.completions',
  'openai.responses'
]
const streams = apis
  .flatMap((api) => loadRecordings({ api }) ?? [])
  .filter(({ stream, body }) => stream && /^(?:data|event):/m.test(body.toString('latin1')))

/** The standard read word by word, of the whole text at once: what a browser dispatches, and behind it what it drops. */
function plainEvents(body: Buffer): ServerSentEvent[] {
  const lines = new TextDecoder().decode(body).split(/\r\n|\r|\n/)
  const events: ServerSentEvent[] = []
  let data: string[] = []
  let event = ''
  let id = ''
  for (const line of [...lines, '']) {
    const [, field, value = ''] = /^([^:]*)(?:: ?(.*))?$/s.exec(line) as RegExpExecArray
    if (line === '') {
      if (data.length > 0) events.push({ event: event || 'message', data: data.join('\n'), id })
      data = []
      event = ''
    } else if (field === 'data') data.push(value)
    else if (field === 'event') event = value
    else if (field === 'id' && !value.includes('\0')) id = value
  }
  return events
}

/** The bytes of each event, its blank line included. */
function* eventBytes(body: Buffer): Generator<Buffer> {
  const text = body.toString('latin1')
  let start = 0
  for (const { index, 0: blank } of text.matchAll(/(?:\r\n|\r|\n)(?:\r\n|\r|\n)+/g)) {
    yield body.subarray(start, index + blank.length)
    start = index + blank.length
  }
  if (start < body.length) yield body.subarray(start)
}

/** As `toEqual`, but for a million comparisons. */
function expectEvents(got: readonly ServerSentEvent[], wanted: readonly ServerSentEvent[], what: string): void {
  const same =
    got.length === wanted.length &&
    wanted.every(({ event, data, id }, at) => {
      const other = got[at] as ServerSentEvent
      return other.data === data && other.event === event && other.id === id
    })
  if (!same) expect([what, got]).toEqual([what, wanted])
}

function parse(body: Buffer, cuts: readonly number[]): ServerSentEvent[] {
  const events: ServerSentEvent[] = []
  const parser = createSSEParser((event) => events.push(event))
  let start = 0
  for (const cut of cuts) {
    parser.push(body.subarray(start, cut))
    start = cut
  }
  parser.push(body.subarray(start))
  parser.end()
  return events
}

function somewhere(random: () => number, body: Buffer, count: number): number[] {
  return Array.from({ length: count }, () => Math.floor(random() * (body.length + 1))).toSorted((a, b) => a - b)
}

describe.skipIf(streams.length === 0)('recorded streams give the events of a browser (skipped without ../shared/real)', () => {
  const named = streams.map((recording) => [recording.id, recording.body] as const)
  test('there are enough of them', () => expect(streams.length).toBeGreaterThan(150))

  // One parser gets each event again and again: cutting the whole body at each place would take the square of its length.
  test.each(named)('%s: each event cut in two at every byte', (id, body) => {
    let events: ServerSentEvent[] = []
    const parser = createSSEParser((event) => events.push(event))
    const wanted = plainEvents(body)
    for (const bytes of eventBytes(body)) {
      const count = plainEvents(bytes).length
      const due = wanted.splice(0, count)
      const isWhole = /(?:\n|\r\n?)(?:\n|\r\n?)$/.test(bytes.toString('latin1').slice(-4))
      for (let cut = 0; cut <= bytes.length; cut++) {
        events = []
        parser.push(bytes.subarray(0, cut))
        parser.push(bytes.subarray(cut))
        if (!isWhole) parser.push(Buffer.from('\n\n'))
        expectEvents(events, due, `${id} cut at ${cut}`)
      }
    }
    expect(wanted).toEqual([])
  })

  test.each(named)('%s: in one piece, byte by byte, and in 200 random cuts (seeds 0 to 199)', (id, body) => {
    const wanted = plainEvents(body)
    expectEvents(parse(body, []), wanted, id)
    expectEvents(parse(body, [...body.keys()]), wanted, `${id} byte by byte`)
    for (let seed = 0; seed < 200; seed++) {
      const random = seededRandom(seed)
      // In two, at every place of a short stream; in a few; in up to 64.
      const cuts = seed % 2 === 0 ? somewhere(random, body, 1) : somewhere(random, body, 1 + Math.floor(random() * 63))
      expectEvents(parse(body, cuts), wanted, `${id} seed ${seed}`)
    }
  })

  test('streams of up to 2000 bytes cut in two at every byte', () => {
    const short = streams.filter(({ body }) => body.length <= 2000)
    expect(short.length).toBeGreaterThan(20)
    for (const { id, body } of short) {
      const wanted = plainEvents(body)
      for (let cut = 0; cut <= body.length; cut++) expectEvents(parse(body, [cut]), wanted, `${id} cut at ${cut}`)
    }
  })

  test('all of them through parseSSE, in batches of random pieces (seed 4)', async () => {
    const random = seededRandom(4)
    for (const { id, body } of streams) {
      const events: ServerSentEvent[] = []
      for await (const event of parseSSE(batches(body, random))) events.push(event)
      expectEvents(events, plainEvents(body), id)
    }
  })

  async function* batches(body: Buffer, random: () => number): AsyncGenerator<readonly Uint8Array[]> {
    let batch: Uint8Array[] = []
    for (let start = 0; start < body.length; ) {
      const end = start + 1 + Math.floor(random() * 400)
      batch.push(body.subarray(start, end))
      start = end
      if (random() < 0.5) continue
      yield batch
      batch = []
    }
    yield batch
  }
})
