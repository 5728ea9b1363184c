import { type ContentClock, createContentScanner, type HttpBody, type HttpResponse } from '@millrace/core'
import { decode, maxHeldBytes, tooLarge } from './exchange.ts'

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
  const source = response.body[Symbol.asyncIterator]()
  const held: Uint8Array[] = []
  let bytes = 0
  let whole = false
  while (scanner.first === 'none' && !scanner.ended && bytes <= maxHeldBytes) {
    clock?.waiting()
    const { done, value } = await source.next()
    if (done === true) {
      whole = true
      scanner.end()
      break
    }
    for (const piece of value) {
      bytes += piece.byteLength
      held.push(piece)
      scanner.push(piece)
    }
  }
  clock?.content()
  clock?.resting()
  if (whole) clock?.[Symbol.dispose]()
  const body = new HeldBody(response.body, source, held, whole, maxResponseBytes, clock && { clock, scanner })
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

interface Watch {
  readonly clock: ContentClock
  readonly scanner: { push(bytes: Uint8Array): boolean }
}

/** What was held, then the rest as it comes. */
class HeldBody implements HttpBody {
  readonly #body: HttpBody
  readonly #source: AsyncIterator<readonly Uint8Array[]>
  #held: readonly Uint8Array[]
  #done: boolean
  readonly #maxTextBytes: number
  readonly #watch: Watch | undefined

  constructor(
    body: HttpBody,
    source: AsyncIterator<readonly Uint8Array[]>,
    held: readonly Uint8Array[],
    done: boolean,
    maxTextBytes: number,
    watch: Watch | undefined
  ) {
    this.#body = body
    this.#source = source
    this.#held = held
    this.#done = done
    this.#maxTextBytes = maxTextBytes
    this.#watch = watch
  }

  get complete(): boolean {
    return this.#done || this.#body.complete === true
  }

  [Symbol.asyncIterator](): AsyncIterator<readonly Uint8Array[], undefined> {
    return {
      next: () => this.#next(),
      return: () => {
        this.cancel()
        return Promise.resolve({ done: true, value: undefined })
      }
    }
  }

  #next(): Promise<IteratorResult<readonly Uint8Array[], undefined>> {
    const value = this.#held
    if (value.length > 0) {
      this.#held = []
      return Promise.resolve({ done: false, value })
    }
    if (this.#done) return Promise.resolve({ done: true, value: undefined })
    return this.#watch === undefined
      ? (this.#source.next() as Promise<IteratorResult<readonly Uint8Array[], undefined>>)
      : this.#read(this.#watch)
  }

  async #read({ clock, scanner }: Watch): Promise<IteratorResult<readonly Uint8Array[], undefined>> {
    clock.waiting()
    try {
      const result = await this.#source.next()
      if (result.done === true) {
        this.#end()
        return { done: true, value: undefined }
      }
      let hasContent = false
      for (const piece of result.value) hasContent = scanner.push(piece) || hasContent
      if (hasContent) clock.content()
      clock.resting()
      return result
    } catch (error) {
      this.cancel(error)
      throw error
    }
  }

  async text(maxBytes: number = this.#maxTextBytes): Promise<string> {
    const pieces: Uint8Array[] = []
    let bytes = 0
    for (;;) {
      const { done, value } = await this.#next()
      if (done === true) return decode(pieces, bytes)
      for (const piece of value) {
        bytes += piece.byteLength
        pieces.push(piece)
      }
      if (bytes <= maxBytes) continue
      const error = tooLarge(maxBytes)
      this.cancel(error)
      throw error
    }
  }

  cancel(reason?: unknown): void {
    this.#held = []
    this.#end()
    this.#body.cancel(reason)
  }

  #end(): void {
    this.#done = true
    this.#watch?.clock[Symbol.dispose]()
  }
}
