// What the streams send: 2,000 events of OpenAI's shape, and the ways they come over the wire.
import { model } from './traffic.ts'

/** `event`: an HTTP chunk each. `packed`: HTTP chunks of 16 KB. `cut`: of 61 bytes, through lines and letters. */
export const shapes = ['event', 'packed', 'cut'] as const
export type Shape = (typeof shapes)[number]

export const eventCount = 2000
const plainWords = Array.from({ length: eventCount }, (_, index) => ` word${index % 97}`)
/** Letters of two, three and four bytes, so that the cuts have some to go through. */
const wideWords = plainWords.map((word, index) => (index % 3 === 0 ? ` wörd${index % 97}` : index % 8 === 0 ? ' 水車 🌊' : word))

const wordsOf = (shape: Shape): readonly string[] => (shape === 'cut' ? wideWords : plainWords)
/** The text of a stream. */
export const textOf = (shape: Shape): string => wordsOf(shape).join('')

function eventOf(delta: object, finish: string | null = null): string {
  const chunk = {
    id: 'chatcmpl-bench-0123456789abcdefghij',
    object: 'chat.completion.chunk',
    created: 1_763_800_000,
    model,
    service_tier: 'default',
    system_fingerprint: 'fp_bench_0123456789',
    choices: [{ index: 0, delta, logprobs: null, finish_reason: finish }],
    obfuscation: 'k3f9Qz'
  }
  return `data: ${JSON.stringify(chunk)}\n\n`
}

export const firstEvent: string = eventOf({ role: 'assistant', content: '', refusal: null })
export const lastEvents: string = `${eventOf({}, 'stop')}data: [DONE]\n\n`
/** A handful of words, for streams that say them over and over. */
export const repeated: readonly string[] = plainWords.slice(0, 32).map((content) => eventOf({ content }))
const repeatedBytes = repeated.join('').length

/** How often they are said in a stream of 200 MB, and how many words and characters that is. */
export const longRepeats: number = Math.ceil(200e6 / repeatedBytes)
export const longWords: number = longRepeats * repeated.length
export const longChars: number = longRepeats * plainWords.slice(0, 32).join('').length

function eventsOf(shape: Shape): readonly string[] {
  return [firstEvent, ...wordsOf(shape).map((content) => eventOf({ content })), lastEvents]
}

export const bytesOf = (shape: Shape): number => Buffer.byteLength(eventsOf(shape).join(''))

export const streamHead = 'HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n'
export const streamTail = '0\r\n\r\n'

/** One HTTP chunk. */
export function chunkOf(content: string | Uint8Array): Buffer {
  const bytes = Buffer.from(content)
  return Buffer.concat([Buffer.from(`${bytes.length.toString(16)}\r\n`), bytes, Buffer.from('\r\n')])
}

/** About so many bytes go out in one write: all streams that run at a time take turns. */
const writeBytes = 10_000
const chunkBytes = { packed: 16_384, cut: 61 }

/** One whole response, in the pieces that are written at once. */
export function writesOf(shape: Shape): readonly Buffer[] {
  const events = eventsOf(shape)
  const chunks = shape === 'event' ? events.map(chunkOf) : slices(Buffer.from(events.join('')), chunkBytes[shape]).map(chunkOf)
  const writes: Buffer[] = []
  let held: Buffer[] = [Buffer.from(streamHead)]
  for (const chunk of chunks) {
    held.push(chunk)
    if (held.reduce((sum, { length }) => sum + length, 0) < writeBytes) continue
    writes.push(Buffer.concat(held))
    held = []
  }
  return [...writes, Buffer.concat([...held, Buffer.from(streamTail)])]
}

function slices(bytes: Buffer, size: number): Buffer[] {
  return Array.from({ length: Math.ceil(bytes.length / size) }, (_, index) => bytes.subarray(index * size, (index + 1) * size))
}
