import { type Chunk, checkOptions } from '@millrace/core'
import { shown } from './check-source.ts'
import { type Operator, operate, type Step } from './operate.ts'
import { type CutOptions, checkCounter, checkInputTokens, emitCut, OutputCount, type RunningCount } from './output-count.ts'
import { pairSeam } from './seam.ts'
import { type StopTexts, stopTexts } from './stop-texts.ts'

export interface StopWhenOptions extends CutOptions {
  /** Counts the output for the estimated usage, such as `tokenizer.counter`. @default none: no usage is counted at a stop */
  readonly createCounter?: (() => RunningCount) | undefined
  /** How much of the end of an answer's text a function is shown at least, in characters; at most twice that. @default 1048576 */
  readonly windowChars?: number | undefined
}

/**
 * Whether to stop, asked for each piece of content: `text` is the answer's text so far, with `chunk` if that is text. True
 * delivers the chunk and stops; a number says how many characters of `text` may be delivered, and stops.
 */
export type StopRule = (text: string, chunk: Chunk) => boolean | number

/**
 * Ends the stream at a text, at the first of several, or where a function says so: the source is returned at once, so that
 * the provider stops generating, then come `usage` (as it was told, before or in the same batch; else estimated, with
 * `createCounter`) and `finish` with reason `cut`.
 *
 * A stop text is looked for in the visible text and not delivered, nor is any part of it. What could be its beginning is
 * held back until it cannot be: at most the longest stop text, with up to 64 `extra`s among it. Any other chunk lets it go:
 * a stop text does not reach over a tool call or reasoning.
 *
 * A function is shown the whole text of an answer of up to `windowChars`, and the end of a longer one; the numbers it gives
 * count in the text it was shown.
 *
 * @throws {TypeError} at creation, when a stop text is empty or an option is wrong; in the stream, when the function gives
 * anything but true, false or a whole number from 0 up
 *
 * @example
 * const stream = stopWhen(['\nUser:', '</answer>'])(adapter.stream(request))
 */
export function stopWhen(stop: string | readonly string[] | StopRule, options: StopWhenOptions = {}): Operator<Chunk> {
  checkOptions<StopWhenOptions>('stopWhen', options, { createCounter: 1, inputTokens: 1, windowChars: 1 })
  const { createCounter, inputTokens, windowChars = 1_048_576 } = options
  if (createCounter !== undefined) checkCounter(createCounter)
  else if (inputTokens !== undefined) throw new TypeError('inputTokens is for the usage that createCounter counts: give both')
  checkInputTokens(inputTokens)
  if (!(Number.isSafeInteger(windowChars) && windowChars > 0)) {
    throw new TypeError(`windowChars must be a whole number above 0, not ${shown(windowChars)}`)
  }
  const texts = typeof stop === 'function' ? [] : checkedTexts(stop)
  return operate(({ request }) => {
    const count = createCounter === undefined ? undefined : new OutputCount(createCounter)
    const deliver = (chunk: Chunk, emit: Emit): void => {
      count?.add(chunk)
      emit(chunk)
    }
    const step = typeof stop === 'function' ? ruled(stop, windowChars, deliver) : searching(stopTexts(texts), deliver)
    return { ...step, stopped: (behind, emit) => emitCut(behind, () => count?.usage(inputTokens, request), emit) }
  })
}

type Emit = (chunk: Chunk) => void
type Deliver = (chunk: Chunk, emit: Emit) => void

function checkedTexts(stop: unknown): readonly string[] {
  if (stop instanceof RegExp) {
    throw new TypeError(`stop must be a text, texts or a function: write stopWhen((text) => ${String(stop)}.test(text))`)
  }
  const texts: readonly unknown[] = Array.isArray(stop) ? [...stop] : [stop]
  if (texts.length === 0) throw new TypeError('stop must be a text, texts or a function, not an empty list')
  for (const text of texts) {
    if (typeof text !== 'string' || text === '' || !text.isWellFormed()) {
      throw new TypeError(
        'stop must be a text, a list of texts, or a function; a text is not empty and holds no half of a character'
      )
    }
  }
  return texts as readonly string[]
}

/** How many extras, such as the logprobs of the pieces, wait among text that is held back. */
const maxExtras = 64

function searching(texts: StopTexts, deliver: Deliver): Step<Chunk, Chunk> {
  let held: Chunk[] = [] // begins with text, of which the first `at` characters have gone out
  let head = 0
  let at = 0
  let chars = 0
  let extras = 0

  /** Delivers so many characters of what is held, and what is no text behind them. */
  function release(most: number, emit: Emit): void {
    let left = most
    for (; head < held.length; head++) {
      const chunk = held[head] as Chunk
      if (chunk.type !== 'text') {
        deliver(chunk, emit)
        extras--
        continue
      }
      const rest = chunk.text.length - at
      if (left < rest) {
        if (left > 0) deliver({ type: 'text', text: chunk.text.slice(at, at + left) }, emit)
        at += left
        chars -= left
        break
      }
      deliver(at === 0 ? chunk : { type: 'text', text: chunk.text.slice(at) }, emit)
      at = 0
      left -= rest
      chars -= rest
    }
    // Let go of in long strides, so that holding much in slivers stays linear.
    if (head === held.length) held = []
    else if (head >= 32 && head * 2 >= held.length) held = held.slice(head)
    else return
    head = 0
  }

  function flush(emit: Emit): void {
    release(chars, emit)
    texts.reset()
  }

  return {
    take(chunk, emit) {
      if (chunk.type === 'text') {
        const { text } = chunk
        const found = texts.push(text)
        if (found === undefined) {
          const { open } = texts
          if (chars === 0 && open === 0) deliver(chunk, emit)
          else if (text !== '') {
            held.push(chunk)
            chars += text.length
            release(chars - open, emit)
          }
          return undefined
        }
        const clear = chars + found.end - found.length
        held.push(chunk)
        chars += text.length
        release(clear, emit)
        return 'stop'
      }
      if (chunk.type === 'extra' && chars > 0 && extras < maxExtras) {
        held.push(chunk)
        extras++
        return undefined
      }
      flush(emit)
      deliver(chunk, emit)
      return undefined
    },
    flush
  }
}

function ruled(stop: StopRule, windowChars: number, deliver: Deliver): Step<Chunk, Chunk> {
  let text = ''

  return {
    take(chunk, emit) {
      if (!isAsked(chunk)) {
        deliver(chunk, emit)
        return undefined
      }
      if (chunk.type === 'text') {
        // Cut down seldom, for each time it is copied.
        if (text.length + chunk.text.length > 2 * windowChars) text = text.slice(-windowChars)
        text += chunk.text
      }
      const verdict: unknown = stop(text, chunk)
      if (verdict === false) {
        deliver(chunk, emit)
        return undefined
      }
      if (verdict === true) deliver(chunk, emit)
      else if (!(Number.isSafeInteger(verdict) && (verdict as number) >= 0)) {
        throw new TypeError(
          `a stop rule must give true, false or a whole number of characters, not ${shown(verdict)}; false goes on`
        )
      } else if (chunk.type === 'text') {
        const before = text.length - chunk.text.length
        const part = chunk.text.slice(0, Math.max(0, (verdict as number) - before))
        const end = part.length === chunk.text.length ? part.length : pairSeam(part)
        if (end > 0) deliver(end === chunk.text.length ? chunk : { type: 'text', text: part.slice(0, end) }, emit)
      }
      return 'stop'
    }
  }
}

function isAsked({ type }: Chunk): boolean {
  return type === 'text' || type === 'tool-call' || type === 'reasoning' || type === 'refusal' || type === 'extra'
}
