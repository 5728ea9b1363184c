import { inspect } from 'node:util'
import { type HttpBody, type HttpResponse, parseJson } from '@millrace/core'
import { Pieces } from './pieces.ts'
import { splitBody } from './split-body.ts'

export interface ResponseFacts {
  readonly url: string
  readonly redirected: boolean
  /** False for the answer to a HEAD. */
  readonly mayHaveBody: boolean
}

/** Bodies whose response nobody holds any more, and which are therefore never read. */
export type Abandoned = FinalizationRegistry<Reading>

/**
 * Gives up the body of a response that has been dropped unread: it would hold its socket until a clock ends it. One for
 * each `fetch`, to be held as long as that is.
 */
export function watchAbandoned(): Abandoned {
  return new FinalizationRegistry((reading) => reading.body.cancel())
}

/** A body on its way to one reader; shared by a response and its stream, and referring to neither, so that both may go. */
interface Reading {
  body: HttpBody
  used: boolean
}

/**
 * A `Response` that makes a web stream only when somebody asks for one: building streams is most of what `fetch` costs.
 * It passes `instanceof Response`. Of a clone and its original, the slower reader may be 16 MiB behind.
 */
export class LightResponse {
  readonly status: number
  readonly url: string
  readonly redirected: boolean
  readonly type = 'basic'
  readonly #response: HttpResponse
  readonly #facts: ResponseFacts
  readonly #abandoned: Abandoned
  readonly #reading: Reading
  readonly #hasBody: boolean
  #headers: Headers | undefined
  #stream: ReadableStream<Uint8Array<ArrayBuffer>> | undefined

  constructor(response: HttpResponse, facts: ResponseFacts, abandoned: Abandoned) {
    beResponse()
    const { status, body } = response
    this.status = status
    this.url = facts.url
    this.redirected = facts.redirected
    this.#response = response
    this.#facts = facts
    this.#abandoned = abandoned
    this.#reading = { body, used: false }
    this.#hasBody = facts.mayHaveBody && !nullBodyStatus.has(status)
    // One that has arrived holds no socket.
    if (body.complete !== true) abandoned.register(this, this.#reading, this.#reading)
  }

  get ok(): boolean {
    return this.status >= 200 && this.status < 300
  }

  /** By the number: HTTP/2 has no other, and a server's own words may be anything. */
  get statusText(): string {
    return process.getBuiltinModule('node:http').STATUS_CODES[this.status] ?? ''
  }

  get headers(): Headers {
    this.#headers ??= new Headers(this.#response.headers)
    return this.#headers
  }

  get bodyUsed(): boolean {
    return this.#reading.used
  }

  get body(): ReadableStream<Uint8Array<ArrayBuffer>> | null {
    if (!this.#hasBody) return null
    if (this.#stream === undefined) {
      this.#stream = streamOf(this.#reading, this.#abandoned)
      if (this.bodyUsed) this.#stream.getReader()
    }
    return this.#stream
  }

  async text(): Promise<string> {
    return this.#hasBody ? this.#take().text() : ''
  }

  /** @throws {SyntaxError} when the body is no JSON; its message does not quote the body */
  async json(): Promise<unknown> {
    const text = await this.text()
    const value = parseJson(text)
    if (value === undefined) throw new SyntaxError(`the response is not JSON (${text.length} characters)`)
    return value
  }

  async bytes(): Promise<Uint8Array<ArrayBuffer>> {
    const pieces = new Pieces()
    if (this.#hasBody) for await (const batch of this.#take()) pieces.pushAll(batch)
    // Not Buffer.concat: a small one is a view of memory that Node shares among buffers, other calls' bytes included.
    const all = new Uint8Array(pieces.bytes)
    let at = 0
    for (const piece of pieces.take()) {
      all.set(piece, at)
      at += piece.byteLength
    }
    return all
  }

  async arrayBuffer(): Promise<ArrayBuffer> {
    return (await this.bytes()).buffer
  }

  async blob(): Promise<Blob> {
    return new Blob([await this.bytes()], { type: this.#response.headers['content-type'] ?? '' })
  }

  async formData(): Promise<FormData> {
    return new Response(await this.bytes(), { headers: this.headers }).formData()
  }

  /** @throws {TypeError} when the body has been read */
  clone(): LightResponse {
    this.#refuseRead()
    const [own, other] = splitBody(this.#reading.body)
    this.#reading.body = own
    return new LightResponse({ ...this.#response, body: other }, this.#facts, this.#abandoned)
  }

  #take(): HttpBody {
    this.#refuseRead()
    this.#reading.used = true
    this.#abandoned.unregister(this.#reading)
    // Whoever asked for the stream too must not read it beside.
    this.#stream?.getReader()
    return this.#reading.body
  }

  #refuseRead(): void {
    if (this.#reading.used) throw new TypeError('Body is unusable: it has already been read')
    if (this.#stream?.locked === true) throw new TypeError('Body is unusable: its stream has a reader')
  }
}

/**
 * `instanceof Response` holds without paying for the real constructor; every accessor of the real one is overridden above.
 * With the first response, for to name `Response` loads the platform's fetch: a quarter of what importing all this costs.
 */
function beResponse(): void {
  if (!(LightResponse.prototype instanceof Response)) Object.setPrototypeOf(LightResponse.prototype, Response.prototype)
}

// What it prints has neither URL nor headers, for a key may stand there; the real one's would make the stream.
Object.defineProperty(LightResponse.prototype, inspect.custom, {
  value(this: LightResponse): string {
    return `Response { status: ${this.status}, bodyUsed: ${this.bodyUsed} }`
  }
})

/** Fetch standard, section 2.2.3: these have no body. */
const nullBodyStatus: ReadonlySet<number> = new Set([101, 103, 204, 205, 304])

function streamOf(reading: Reading, abandoned: Abandoned): ReadableStream<Uint8Array<ArrayBuffer>> {
  let source: AsyncIterator<readonly Uint8Array[]> | undefined
  const stream = new ReadableStream<Uint8Array<ArrayBuffer>>(
    {
      async pull(controller) {
        reading.used = true
        source ??= reading.body[Symbol.asyncIterator]()
        // A pull that brings nothing is not followed by another one.
        for (let isEmpty = true; isEmpty; ) {
          const { done, value } = await source.next()
          if (done === true) {
            abandoned.unregister(reading)
            return controller.close()
          }
          for (const piece of value) controller.enqueue(piece as Uint8Array<ArrayBuffer>)
          isEmpty = value.length === 0
        }
      },
      cancel(reason) {
        reading.used = true
        abandoned.unregister(reading)
        reading.body.cancel(reason)
      }
    },
    // Nothing is read ahead: the socket is paused while nobody reads.
    { highWaterMark: 0 }
  )
  // From here on it is the stream that must not be dropped: a reader of it may hold nothing else.
  if (abandoned.unregister(reading)) abandoned.register(stream, reading, reading)
  return stream
}
