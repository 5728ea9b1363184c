import { type HttpBody, type HttpResponse, parseJson } from '@millrace/core'

/**
 * A `Response` that makes a web stream only when somebody asks for one: building streams is most of what `fetch` costs.
 * It passes `instanceof Response`; `clone()` is refused, for it would have to hold the body twice.
 */
export class LightResponse {
  readonly status: number
  readonly url: string
  readonly statusText = ''
  readonly type = 'default'
  readonly redirected = false
  readonly #source: HttpBody
  readonly #rawHeaders: Readonly<Record<string, string>>
  #headers: Headers | undefined
  #stream: ReadableStream<Uint8Array> | null | undefined
  #used = false

  constructor(response: HttpResponse, url: string) {
    this.status = response.status
    this.url = url
    this.#source = response.body
    this.#rawHeaders = response.headers
  }

  get ok(): boolean {
    return this.status >= 200 && this.status < 300
  }

  get headers(): Headers {
    this.#headers ??= new Headers(this.#rawHeaders)
    return this.#headers
  }

  get bodyUsed(): boolean {
    return this.#used || this.#stream?.locked === true
  }

  get body(): ReadableStream<Uint8Array> | null {
    if (this.#stream === undefined) this.#stream = nullBodyStatus.has(this.status) ? null : streamOf(this.#source)
    return this.#stream
  }

  async text(): Promise<string> {
    return this.#stream ? new TextDecoder().decode(await this.bytes()) : this.#take().text()
  }

  /** @throws {SyntaxError} when the body is no JSON; its message does not quote the body */
  async json(): Promise<unknown> {
    const text = await this.text()
    const value = parseJson(text)
    if (value === undefined) throw new SyntaxError(`the response is not JSON (${text.length} characters)`)
    return value
  }

  async bytes(): Promise<Uint8Array<ArrayBuffer>> {
    const pieces: Uint8Array[] = []
    if (this.#stream) {
      if (this.bodyUsed) throw alreadyRead()
      this.#used = true
      for await (const piece of this.#stream) pieces.push(piece)
    } else {
      for await (const batch of this.#take()) pieces.push(...batch)
    }
    // Not Buffer.concat: a small one is a view of memory that Node shares among buffers, other calls' bytes included.
    const all = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.byteLength, 0))
    let at = 0
    for (const piece of pieces) {
      all.set(piece, at)
      at += piece.byteLength
    }
    return all
  }

  async arrayBuffer(): Promise<ArrayBuffer> {
    return (await this.bytes()).buffer
  }

  async blob(): Promise<Blob> {
    return new Blob([await this.bytes()], { type: this.#rawHeaders['content-type'] ?? '' })
  }

  async formData(): Promise<FormData> {
    return new Response(await this.bytes(), { headers: this.headers }).formData()
  }

  clone(): never {
    throw new TypeError('this response cannot be cloned: read it once and keep what you need')
  }

  #take(): HttpBody {
    if (this.bodyUsed) throw alreadyRead()
    this.#used = true
    return this.#source
  }
}

// `instanceof Response` holds without paying for the real constructor; every accessor of the real one is overridden above.
Object.setPrototypeOf(LightResponse.prototype, Response.prototype)

/** Fetch standard, section 2.2.3: these have no body. */
const nullBodyStatus: ReadonlySet<number> = new Set([101, 103, 204, 205, 304])

function alreadyRead(): TypeError {
  return new TypeError('Body is unusable: it has already been read')
}

function streamOf(source: HttpBody): ReadableStream<Uint8Array> {
  const reader = source[Symbol.asyncIterator]()
  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        const { done, value } = await reader.next()
        if (done === true) controller.close()
        else for (const piece of value) controller.enqueue(piece)
      },
      cancel(reason) {
        source.cancel(reason)
      }
    },
    // Nothing is read ahead: the socket is paused while nobody reads.
    { highWaterMark: 0 }
  )
}
