import { anthropic } from '@millrace/adapter/anthropic'
import { openai } from '@millrace/adapter/openai'
import {
  type ContentScanner,
  createContentScanner,
  type HttpBody,
  isContent,
  isMillraceError,
  type Provider,
  type Send
} from '@millrace/core'
import { loadRecordings, type Recording, seededRandom } from '@millrace/testkit'
import { describe, expect, test } from 'vitest'

// The content scanner of @millrace/core on recorded streams, held against what the readers of this package make of them.

const apis = [
  'openai.chat',
  'openai.completions',
  'openai.responses',
  'anthropic.messages',
  'gemini.generateContent',
  'gemini.interactions',
  'cohere.v2.chat',
  'cohere.v1.chat'
]
const streams = apis.flatMap((api) => loadRecordings({ api }) ?? []).filter(({ stream }) => stream)
if (streams.length === 0) console.warn('skipped: there are no recordings at ../shared/real')
const named = (list: readonly Recording[]) => list.map((recording) => [recording.id, recording] as const)

/** APIs whose end the scanner does not know, and one that was recorded with a broken last event. */
const endless = ({ id, api }: Recording): boolean =>
  api === 'gemini.interactions' || id.startsWith('writer-completions') || id === 'openai-responses-3937cd1379'

/** The only one with an error: the quota was used up. */
const failed = 'openai-responses-9046a4b952'
/** A refusal without a word. */
const silent = 'anthropic-messages-e9d5d6cf72'
/** Several answers in one file, or (Together) a finish reason behind each of two tool calls. */
const several: ReadonlySet<string> = new Set([
  'anthropic-messages-4fd422a5e2',
  'anthropic-messages-c7662b629b',
  'azure-responses-a2574a21dc',
  'cerebras-chat-1a64c06110',
  'together-chat-707590a95b'
])

/** The scanner counts the start of a tool call that the server makes itself; the reader hands such a block on when it is whole. */
const blocksOfTheServer: ReadonlySet<string> = new Set(['anthropic-messages-2370b76034', 'anthropic-messages-54fd160c9e'])

interface Verdict extends Pick<ContentScanner, 'first' | 'ended' | 'errorStatus'> {
  /** Which pieces had content. */
  readonly contents: readonly number[]
  /** Behind which pieces the answer had ended. */
  readonly endings: readonly boolean[]
}

function scan(pieces: readonly Uint8Array[]): Verdict {
  const scanner = createContentScanner()
  const contents: number[] = []
  const endings = pieces.map((piece, at) => {
    if (scanner.push(piece)) contents.push(at)
    return scanner.ended
  })
  if (scanner.end()) contents.push(pieces.length - 1)
  const { first, ended, errorStatus } = scanner
  return { first, ended, errorStatus, contents, endings }
}

/** Each event with its blank line. */
function eventsOf(body: Buffer): Buffer[] {
  const events: Buffer[] = []
  let start = 0
  for (const blank of body.toString('latin1').matchAll(/(?:\r?\n){2,}/g)) {
    const end = blank.index + blank[0].length
    events.push(body.subarray(start, end))
    start = end
  }
  if (start < body.length) events.push(body.subarray(start))
  return events
}

describe.skipIf(streams.length === 0)('recorded streams (skipped without ../shared/real)', () => {
  test('there are enough of them', () => expect(streams.length).toBeGreaterThan(180))

  test.each(named(streams))('%s is seen for what it is', (id, recording) => {
    const { first, ended, errorStatus, contents, endings } = scan(eventsOf(recording.body))
    expect(errorStatus).toBe(id === failed ? 429 : undefined)
    expect(first).toBe(id === failed ? 'error' : id === silent ? 'end' : 'content')
    expect(ended).toBe(id !== failed && !endless(recording))
    if (ended && !several.has(id)) expect(endings.slice(0, contents.at(-1) ?? 0)).not.toContain(true)
  })

  test.each(named(streams))('%s is seen the same at random cuts (seed 1)', (_, { body }) => {
    const random = seededRandom(1)
    const { first, ended, errorStatus } = scan(eventsOf(body))
    for (const maxBytes of [7, 64, 5000]) {
      const pieces: Buffer[] = []
      for (let at = 0; at < body.length; ) {
        const end = at + 1 + Math.floor(random() * maxBytes)
        pieces.push(body.subarray(at, end))
        at = end
      }
      expect(scan(pieces)).toMatchObject({ first, ended, errorStatus })
    }
  })

  test.each(named(streams.filter((recording) => !endless(recording) && recording.id !== failed)))(
    '%s cut off inside its last words has not ended',
    (_, { body }) => {
      const events = eventsOf(body)
      const endsAt = scan(events).endings.lastIndexOf(false) + 1
      const before = events.slice(0, endsAt)
      expect(scan(before).ended).toBe(false)
      const half = events[endsAt]?.subarray(0, -12)
      if (half === undefined) throw new Error('the end is nowhere')
      expect(scan([...before, half])).toMatchObject({ ended: false, errorStatus: undefined })
    }
  )
})

describe.skipIf(streams.length === 0)('the readers (skipped without ../shared/real)', () => {
  const options = { apiKey: 'k', baseURL: 'http://127.0.0.1:1' }
  const connect: Readonly<Record<string, (send: Send) => Provider>> = {
    'openai.chat': (send) => openai(options).connect(send),
    'anthropic.messages': (send) => anthropic(options).connect(send)
  }
  const read = streams.filter(({ api }) => Object.hasOwn(connect, api))

  test.each(named(read))('find the first content and the end of %s where the scanner does', async (id, { api, body }) => {
    const events = eventsOf(body)
    const { contents, ended } = scan(events)
    let given = 0
    let firstContent: number | undefined
    const provider = connect[api]?.(sendOf(events, () => given++)) as Provider
    const whole = await (async () => {
      for await (const chunk of provider({ model: 'm', messages: [{ role: 'user', content: 'x' }] }, {})) {
        if (isContent(chunk)) firstContent ??= given - 1
      }
    })().then(
      () => true,
      (error: unknown) => {
        expect(isMillraceError(error)).toBe(true)
        return false
      }
    )
    expect(whole).toBe(ended)
    if (blocksOfTheServer.has(id)) expect(contents[0]).toBeLessThan(firstContent ?? 0)
    else expect(contents[0]).toBe(firstContent)
  })

  /** A wire that hands over one event a read. */
  function sendOf(events: readonly Buffer[], count: () => void): Send {
    async function* reads(): AsyncGenerator<readonly Uint8Array[], undefined> {
      for (const event of events) {
        count()
        yield [event]
      }
    }
    const body: HttpBody = {
      [Symbol.asyncIterator]: reads,
      text: () => Promise.resolve(Buffer.concat(events).toString()),
      cancel() {}
    }
    return () => Promise.resolve({ status: 200, headers: { 'content-type': 'text/event-stream' }, body, attempts: 1 })
  }
})
