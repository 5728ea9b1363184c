import {
  annotate,
  type CallOptions,
  type ChatRequest,
  type Chunk,
  ChunkBatches,
  type ContentClock,
  checkRequest,
  createSSEParser,
  type HttpResponse,
  inputTokens,
  isContent,
  isJsonObject,
  isMillraceError,
  type LinkedAbort,
  linkAbort,
  MillraceError,
  parseJson,
  type Send,
  type ServerSentEvent,
  type SSEParser,
  startContentClock,
  type Usage
} from '@millrace/core'
import { contentType, drain, drainMs, isStream, requestId, takeRest } from './answer-body.ts'
import type { AnswerReader, Dialect } from './dialect.ts'
import { httpError } from './http-error.ts'
import { rateLimits } from './rate-limits.ts'
import { TextTemplate } from './text-template.ts'
import { WellFormed } from './well-formed.ts'

/** Silence between two contents that no provider needs: the longest pauses seen come before the first content. */
const defaultIdleMs = 60_000

/** The headers of every request, by the shape of the answer it asks for. */
export interface Heads {
  readonly stream: Readonly<Record<string, string>>
  readonly plain: Readonly<Record<string, string>>
}

/** One call. A class, for it is the hot path: one object a call, shared methods. */
export class Answer extends ChunkBatches {
  readonly #dialect: Dialect
  readonly #heads: Heads
  readonly #send: Send
  readonly #request: ChatRequest
  readonly #options: CallOptions
  readonly #reader: AnswerReader
  #ready: Chunk[] = []
  #batches: AsyncIterator<readonly Uint8Array[]> | undefined
  #parser: SSEParser | undefined
  #template: TextTemplate | undefined
  readonly #wellFormed = new WellFormed()
  #linked: LinkedAbort | undefined
  #clock: ContentClock | undefined
  #response: HttpResponse | undefined
  #state: 'new' | 'open' | 'done' = 'new'
  /** Of the first batch, what stands behind the first content. */
  #unread: readonly Uint8Array[] | undefined
  #hasContent = false
  #toldInput: Usage['input'] | undefined
  #lastEvent = false
  #ending = false
  #failure: { readonly error: unknown } | undefined
  #pulls = 0
  #lastPull: Promise<readonly Chunk[] | undefined> | undefined

  constructor(dialect: Dialect, heads: Heads, send: Send, request: ChatRequest, options: CallOptions) {
    super()
    this.#dialect = dialect
    this.#heads = heads
    this.#send = send
    this.#request = request
    this.#options = options
    this.#reader = dialect.reader(request)
  }

  async return(): Promise<IteratorResult<Chunk, undefined>> {
    if (this.#state === 'open') {
      // With all content read, the socket is worth a moment: the server's last bytes are usually here already.
      if (this.#reader.finish !== undefined && this.#batches !== undefined) drain(this.#response as HttpResponse, this.#batches)
      else this.#linked?.abort(new MillraceError('closed', 'the reader left the stream', { details: {} }))
    }
    this.#close()
    this.clear()
    return { done: true, value: undefined }
  }

  /** One at a time: a batch that is asked for before the last one has come waits for its turn. */
  protected pull(): Promise<readonly Chunk[] | undefined> {
    if (this.#pulls++ === 0) this.#lastPull = this.#nextChunks()
    else {
      const again = (): Promise<readonly Chunk[] | undefined> => this.#nextChunks()
      this.#lastPull = (this.#lastPull as Promise<unknown>).then(again, again)
    }
    return this.#lastPull
  }

  async #nextChunks(): Promise<readonly Chunk[] | undefined> {
    this.#ready = []
    try {
      if (this.#failure !== undefined) throw this.#failure.error
      while (this.#ready.length === 0 && this.#state !== 'done') {
        if (this.#state === 'new') await this.#open()
        else await this.#read()
      }
    } catch (error) {
      this.#tellUsageSoFar()
      this.#addNotes()
      // What was read before the failure is handed out first; the failure comes with the pull after it.
      if (this.#ready.length > 0 && this.#failure === undefined) this.#failure = { error }
      else this.#settle(error)
    } finally {
      this.#pulls--
    }
    // From here on it is the reader's turn: what it takes its time for is not the provider's silence.
    this.#clock?.resting()
    this.over = this.#state === 'done' && this.#failure === undefined
    return this.#ready.length === 0 ? undefined : this.#ready
  }

  async #open(): Promise<void> {
    const { signal, timeouts, deadline, callId, tally, permit, idempotencyKey } = this.#options
    const stream = this.#options.stream !== false
    checkRequest(this.#request)
    if (signal?.aborted === true) throw signal.reason
    const body = JSON.stringify(this.#dialect.body(this.#request, { stream }))
    // A call of the adapter ends its own signal before it leaves; only a stream's clocks and other readers need one more.
    const linked = stream || deadline === undefined ? linkAbort(signal) : undefined
    this.#linked = linked
    this.#state = 'open'
    if (stream) {
      this.#clock = startContentClock(
        { firstChunkMs: timeouts?.firstChunkMs, idleMs: timeouts?.idleMs ?? defaultIdleMs },
        (error) => linked?.abort(error)
      )
    }
    this.#clock?.waiting()
    const head = stream ? this.#heads.stream : this.#heads.plain
    const sentAt = performance.now()
    let response: HttpResponse
    try {
      response = await this.#send({
        method: 'POST',
        url: this.#dialect.url,
        headers: idempotencyKey === undefined ? head : { ...head, 'idempotency-key': idempotencyKey },
        body,
        signal: linked === undefined ? signal : linked.signal,
        // Content is timed here, where it is read anyway; the total is held further out.
        timeouts: {
          connectMs: timeouts?.connectMs,
          headersMs: timeouts?.headersMs,
          firstChunkMs: Number.POSITIVE_INFINITY,
          idleMs: Number.POSITIVE_INFINITY,
          ...(deadline === undefined ? {} : { totalMs: Number.POSITIVE_INFINITY })
        },
        deadline,
        callId,
        tally,
        permit
      })
    } finally {
      this.#waitedSince(sentAt)
    }
    this.#response = response
    if (response.status < 200 || response.status > 299) {
      this.#clock?.resting()
      throw await httpError(response, this.#dialect)
    }
    if (!isStream(response, stream)) {
      const headAt = performance.now()
      const text = await response.body.text()
      this.#waitedSince(headAt)
      return this.#takeAnswer(text, response)
    }
    this.#template = new TextTemplate(
      () => this.#dialect.reader(this.#request),
      (chunk) => this.#add(chunk)
    )
    this.#parser = createSSEParser((event) => this.#take(event), { shortcut: this.#template })
    this.#batches = response.body[Symbol.asyncIterator]()
  }

  #takeAnswer(text: string, response: HttpResponse): void {
    const body = parseJson(text)
    if (!isJsonObject(body)) {
      throw this.#protocolError(
        'malformed',
        `the answer is not a JSON object (${text.length} characters, ${contentType(response)})`
      )
    }
    this.#reader.answer(body, this.#ready)
    this.#wellFormed.mend(this.#ready, 0)
    this.#finish()
    this.#addNotes()
  }

  async #read(): Promise<void> {
    this.#clock?.waiting()
    const parser = this.#parser as SSEParser
    // Behind the first content of a stream nobody asks whose time it was.
    const isTimed = !this.#hasContent || this.#options.stream === false
    const from = isTimed ? performance.now() : 0
    let pieces: IteratorResult<readonly Uint8Array[], unknown>
    try {
      pieces = await this.#nextPieces()
    } finally {
      if (isTimed) this.#waitedSince(from)
    }
    const { done, value } = pieces
    if (done === true) takeRest(parser)
    else if (this.#hasContent) parser.pushAll(value)
    else this.#takeFirst(value, parser)
    const { finish } = this.#reader
    // Some servers say so behind each of several tool calls: then the next may take as long as any content.
    if (finish !== undefined && finish !== 'tool-calls') this.#expectEnd()
    else if (this.#ready.some(isContent)) {
      this.#hasContent = true
      this.#clock?.content()
    }
    if (done === true) this.#finish()
    else if (this.#lastEvent) {
      this.#finish()
      drain(this.#response as HttpResponse, this.#batches as AsyncIterator<unknown>)
    }
    this.#addNotes()
  }

  /** What the call waits for is the provider's time: all attempts and the waits between them, and the reading of what it writes. */
  #waitedSince(from: number): void {
    this.#options.tally?.waitedForProvider(performance.now() - from)
  }

  #nextPieces(): Promise<IteratorResult<readonly Uint8Array[], unknown>> {
    const value = this.#unread
    if (value === undefined) return (this.#batches as AsyncIterator<readonly Uint8Array[]>).next()
    this.#unread = undefined
    return Promise.resolve({ done: false, value })
  }

  /** The first content goes out before what came with it is parsed: one read of a fast stream holds hundreds of events. */
  #takeFirst(pieces: readonly Uint8Array[], parser: SSEParser): void {
    let at = 0
    while (at < pieces.length && !this.#ready.some(isContent)) parser.push(pieces[at++] as Uint8Array)
    if (at < pieces.length) this.#unread = pieces.slice(at)
  }

  /** The provider has said why it stopped. Some leave the connection open behind that: then this is the end. */
  #expectEnd(): void {
    if (this.#ending) return
    this.#ending = true
    this.#clock?.[Symbol.dispose]()
    // Like the others it counts only the time we wait for the provider, and looks at what has arrived before it judges.
    this.#clock = startContentClock({ firstChunkMs: drainMs }, () =>
      this.#linked?.abort(new MillraceError('closed', 'nothing came behind the finish', { details: {} }))
    )
  }

  #take(event: ServerSentEvent): void {
    if (this.#lastEvent) return
    const from = this.#ready.length
    this.#lastEvent = this.#reader.event(event, this.#ready)
    this.#wellFormed.mend(this.#ready, from)
    // Anthropic tells the input with the start: then it is known whatever ends the answer.
    if (!this.#hasContent && this.#ready[from]?.type === 'start') this.#toldInput = toldInput(this.#reader.usage)
    // Learning takes as long as twenty events: the first content does not wait for it.
    if (this.#hasContent) this.#template?.parsed(this.#ready, from)
    if (this.#lastEvent) this.#template?.stop()
  }

  /** What a template took: its text is well-formed, but may come behind half a pair. */
  #add(chunk: Chunk): void {
    this.#ready.push(chunk)
    if (this.#wellFormed.isHolding) this.#wellFormed.mend(this.#ready, this.#ready.length - 1)
  }

  /** The answer is whole: usage and finish go out. */
  #finish(): void {
    this.#wellFormed.end(this.#ready)
    if (!this.#reader.end(this.#ready)) {
      throw this.#protocolError('incomplete', 'the stream ended without a finish reason; the text so far is in error.partial')
    }
    this.#close()
  }

  /** Notes go right behind the start, before any content. */
  #addNotes(): void {
    const response = this.#response
    if (this.#ready[0]?.type !== 'start' || response === undefined) return
    const notes: Chunk[] = []
    if (response.attempts > 1) notes.push({ type: 'note', from: 'retry', facts: { attempts: response.attempts } })
    if (response.hedge !== undefined) notes.push({ type: 'note', from: 'hedge', facts: { outcome: response.hedge } })
    const limits = rateLimits(response.headers)
    const input = this.#toldInput
    if (limits !== undefined || input !== undefined) {
      const facts = { ...(limits && { rateLimits: limits }), ...(input && { input: { ...input } }) }
      notes.push({ type: 'note', from: 'provider', facts })
    }
    if (notes.length > 0) this.#ready.splice(1, 0, ...notes)
  }

  /** Of an answer that breaks off, for it will be billed. Where nothing of it was seen, another attempt's usage is told. */
  #tellUsageSoFar(): void {
    const { usage, finish } = this.#reader
    const hasContent = this.#hasContent || this.#ready.some(isContent)
    if (usage === undefined || finish !== undefined || !hasContent || this.#failure !== undefined) return
    if (this.#options.signal?.aborted === true) return // the reader takes nothing more
    this.#ready.push({ type: 'usage', usage: { ...usage, estimated: true } })
  }

  #settle(error: unknown): void {
    this.#failure = undefined
    this.#response?.body.cancel(error)
    this.#close()
    // All content has come and only the bookkeeping broke off (no [DONE], a reset at the end): that is a whole answer.
    const aborted = this.#options.signal?.aborted === true
    this.#wellFormed.end(this.#ready)
    if (this.#reader.finish !== undefined && !aborted && isMillraceError(error) && this.#reader.end(this.#ready)) return
    throw annotate(error, {
      context: {
        provider: this.#dialect.name,
        model: (this.#request as ChatRequest | null)?.model, // what was passed may be anything
        requestId: requestId(this.#response, this.#dialect.secrets),
        attempt: this.#response?.attempts
      }
    })
  }

  #protocolError(reason: 'incomplete' | 'malformed', message: string): MillraceError<'protocol'> {
    return new MillraceError('protocol', message, { details: { reason, status: this.#response?.status } })
  }

  #close(): void {
    this.#state = 'done'
    this.#clock?.[Symbol.dispose]()
    this.#linked?.[Symbol.dispose]()
  }
}

/** Some servers tell zeros at the start, and mean that they do not know. */
function toldInput(usage: Usage | undefined): Usage['input'] | undefined {
  return usage !== undefined && inputTokens(usage) > 0 ? usage.input : undefined
}
