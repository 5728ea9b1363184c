import { type ContentClock, createContentScanner, type HttpBody, type HttpResponse } from '@millrace/core'
import { maxHeldBytes } from './exchange.ts'
import { iterate, Pieces, readText } from './pieces.ts'

/**
 * Holds an event stream back until its first content, its end, an error event, or 64 KiB: what goes wrong before that can
 * be tried again, for nobody has been given anything. What was held is the first batch of the body. With a `clock`, its
 * silences are judged by content, not by bytes, to the end of the body.
 */
export async function holdBack(
  response: HttpResponse,
  { maxResponseBytes, maxEventChars }: HoldLimits,
  clock: ContentClock | undefined
): Promise<HttpResponse> {
  const scanner = createContentScanner({ maxEventChars })
  const source = response.body[Symbol.asyncIterator]() as AsyncIterator<readonly Uint8Array[], undefined>
  const held = new Pieces()
  let whole = false
  let failure: Failure | undefined
  try {
    while (scanner.first === 'none' && !scanner.ended && held.bytes <= maxHeldBytes) {
      clock?.waiting()
      const { done, value } = await source.next()
      if (done === true) {
        whole = true
        scanner.end()
        break
      }
      for (const piece of value) {
        held.push(piece)
        // Behind the first content only the clock wants to know more.
        if (clock !== undefined || scanner.first === 'none') scanner.push(piece)
      }
    }
  } catch (error) {
    response.body.cancel(error)
    // Behind content it is told where it stands.
    if (scanner.first === 'none') throw error
    failure = { error }
  }
  // The wait for the first content goes on where it was let go without any.
  if (scanner.first !== 'none') clock?.content()
  clock?.resting()
  if (whole || failure !== undefined) clock?.[Symbol.dispose]()
  const body = new HeldBody(
    response.body,
    source,
    { pieces: held.take(), whole, failure },
    maxResponseBytes,
    clock && { clock, scanner }
  )
  const refusal =
    scanner.first === 'error'
      ? (scanner.errorStatus ?? 500)
      : scanner.first === 'none' && (whole || scanner.ended)
        ? 502
        : undefined
  return refusal === undefined ? { ...response, body } : { ...response, body, refusal }
}

export interface HoldLimits {
  /** Of `text()`. */
  readonly maxResponseBytes: number
  readonly maxEventChars: number
}

interface Failure {
  readonly error: unknown
}

interface Held {
  readonly pieces: readonly Uint8Array[]
  /** Nothing follows. */
  readonly whole: boolean
  /** What follows instead. */
  readonly failure: Failure | undefined
}

interface Watch {
  readonly clock: ContentClock
  readonly scanner: { push(bytes: Uint8Array): boolean }
}

/** What was held, then the rest as it comes. */
class HeldBody implements HttpBody {
  readonly #body: HttpBody
  readonly #source: AsyncIterator<readonly Uint8Array[], undefined>
  #held: readonly Uint8Array[]
  #done: boolean
  #failure: Failure | undefined
  readonly #maxTextBytes: number
  readonly #watch: Watch | undefined

  constructor(
    body: HttpBody,
    source: AsyncIterator<readonly Uint8Array[], undefined>,
    { pieces, whole, failure }: Held,
    maxTextBytes: number,
    watch: Watch | undefined
  ) {
    this.#body = body
    this.#source = source
    this.#held = pieces
    this.#done = whole
    this.#failure = failure
    this.#maxTextBytes = maxTextBytes
    this.#watch = watch
  }

  get complete(): boolean {
    return this.#done || this.#body.complete === true
  }

  [Symbol.asyncIterator](): AsyncIterator<readonly Uint8Array[], undefined> {
    return iterate(
      () => this.#next(),
      () => this.cancel()
    )
  }

  #next(): Promise<IteratorResult<readonly Uint8Array[], undefined>> {
    const value = this.#held
    if (value.length > 0) {
      this.#held = []
      return Promise.resolve({ done: false, value })
    }
    if (this.#done) return Promise.resolve({ done: true, value: undefined })
    if (this.#failure !== undefined) return Promise.reject(this.#failure.error)
    return this.#watch === undefined ? this.#source.next() : this.#read(this.#watch)
  }

  async #read({ clock, scanner }: Watch): Promise<IteratorResult<readonly Uint8Array[], undefined>> {
    clock.waiting()
    let result: IteratorResult<readonly Uint8Array[], undefined>
    try {
      result = await this.#source.next()
    } catch (error) {
      this.#fail(error)
      throw error
    }
    if (result.done === true) {
      this.#done = true
      clock[Symbol.dispose]()
      return result
    }
    try {
      let hasContent = false
      for (const piece of result.value) hasContent = scanner.push(piece) || hasContent
      if (hasContent) clock.content()
    } catch (error) {
      // Told behind this batch: what it holds before the fault belongs to the caller.
      this.#fail(error)
    }
    clock.resting()
    return result
  }

  text(maxBytes: number = this.#maxTextBytes): Promise<string> {
    return readText(
      () => this.#next(),
      maxBytes,
      (error) => this.cancel(error)
    )
  }

  cancel(reason?: unknown): void {
    this.#held = []
    this.#watch?.clock[Symbol.dispose]()
    this.#body.cancel(reason)
  }

  #fail(error: unknown): void {
    this.#failure = { error }
    this.cancel(error)
  }
}
