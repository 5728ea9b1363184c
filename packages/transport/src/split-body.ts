import { type HttpBody, MillraceError } from '@millrace/core'
import { iterate, Pieces, readText } from './pieces.ts'

/** How much one reader of a split body may be behind the other, and the longest text: what is kept for it stays in memory. */
const maxKeptBytes = 16 * 1024 * 1024

/**
 * Two bodies of one, each to be read by itself and in its own time. What one has read is kept for the other, up to 16 MiB:
 * beyond that the slower one fails. The socket is closed when both have been given up.
 */
export function splitBody(body: HttpBody): [HttpBody, HttpBody] {
  const shared = new Shared(body)
  return [new Branch(shared), new Branch(shared)]
}

class Shared {
  readonly body: HttpBody
  readonly branches: Set<Branch> = new Set()
  readonly #source: AsyncIterator<readonly Uint8Array[]>
  #pull: Promise<boolean> | undefined

  constructor(body: HttpBody) {
    this.body = body
    this.#source = body[Symbol.asyncIterator]()
  }

  /** Reads on, once for all who ask meanwhile; false at the end. */
  read(): Promise<boolean> {
    this.#pull ??= this.#read()
    return this.#pull
  }

  async #read(): Promise<boolean> {
    const { done, value } = await this.#source.next()
    if (done === true) return false // for ever: the promise stays
    let isFirst = true
    for (const branch of this.branches) {
      // Each has bytes of its own, for a reader may change or transfer them.
      branch.give(isFirst ? value : value.map((piece) => new Uint8Array(piece)))
      isFirst = false
    }
    this.#pull = undefined
    return true
  }
}

class Branch implements HttpBody {
  readonly #shared: Shared
  readonly #kept = new Pieces()
  #failure: { readonly error: unknown } | undefined

  constructor(shared: Shared) {
    this.#shared = shared
    shared.branches.add(this)
  }

  get complete(): boolean {
    return this.#shared.body.complete === true
  }

  give(pieces: readonly Uint8Array[]): void {
    this.#kept.pushAll(pieces)
    if (this.#kept.bytes > maxKeptBytes) this.#leave(leftBehind())
  }

  [Symbol.asyncIterator](): AsyncIterator<readonly Uint8Array[], undefined> {
    return iterate(
      () => this.#next(),
      () => this.cancel()
    )
  }

  async #next(): Promise<IteratorResult<readonly Uint8Array[], undefined>> {
    for (;;) {
      if (this.#failure !== undefined) throw this.#failure.error
      if (this.#kept.length > 0) return { done: false, value: this.#kept.take() }
      if (!(await this.#shared.read()) && this.#kept.length === 0) return { done: true, value: undefined }
    }
  }

  text(maxBytes: number = maxKeptBytes): Promise<string> {
    return readText(
      () => this.#next(),
      maxBytes,
      (error) => this.cancel(error)
    )
  }

  cancel(reason?: unknown): void {
    this.#leave(reason ?? new MillraceError('closed', 'the body was cancelled by its reader', { details: {} }))
    if (this.#shared.branches.size === 0) this.#shared.body.cancel(reason)
  }

  #leave(error: unknown): void {
    this.#failure ??= { error }
    this.#kept.take()
    this.#shared.branches.delete(this)
  }
}

function leftBehind(): MillraceError<'protocol'> {
  return new MillraceError(
    'protocol',
    `more than ${maxKeptBytes} bytes would have to be kept for this clone of a response: read both at the same pace, or cancel one`,
    { details: { reason: 'too-large' } }
  )
}
