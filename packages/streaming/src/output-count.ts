import {
  type ChatRequest,
  type Chunk,
  type FinishChunk,
  isFromCache,
  type NoteChunk,
  type Usage,
  type UsageChunk
} from '@millrace/core'
import { shown } from './check-source.ts'

/** The running total of a text that comes in pieces, such as `tokenizer.counter()` of `@millrace/tokens`. */
export interface RunningCount {
  /** Adds text; gives the tokens of everything pushed so far, joined. */
  push(text: string): number
}

/** What an operator that cuts an answer can tell beside the output that it counts. */
export interface CutOptions {
  /**
   * Input tokens for the estimated usage; a function is given the request, which an operator knows only as a layer
   * (`withOperators`), and is called only when the answer is cut; what the token budget has dropped is taken off its number.
   * @default 0, which is also said when there is no request
   */
  readonly inputTokens?: number | ((request: ChatRequest) => number) | undefined
}

export function checkCounter(createCounter: unknown): void {
  if (typeof createCounter === 'function') {
    if (createCounter.length === 0 || makesCounter(createCounter as () => unknown)) return
    throw new TypeError('createCounter is given no text: it makes a counter with a push(text), such as tokenizer.counter')
  }
  throw new TypeError('createCounter must be a function that gives a new counter, such as tokenizer.counter')
}

/** For a function with a parameter: `(text) => text.length` is meant as a counter, and breaks without a text. */
function makesCounter(create: () => unknown): boolean {
  try {
    return typeof (create() as Partial<RunningCount> | undefined)?.push === 'function'
  } catch {
    return false // told by a TypeError
  }
}

export function checkInputTokens(inputTokens: unknown): void {
  if (inputTokens === undefined || typeof inputTokens === 'function' || isCount(inputTokens)) return
  throw new TypeError(
    'inputTokens must be a whole number from 0 up, or a function such as (request) => tokenizer.countMessages(request.messages, request)'
  )
}

/** One text of an answer, with what it has cost so far. */
export interface Tally {
  readonly counter: RunningCount
  tokens: number
}

/** The tokens of an answer as it passes, each field as a text of its own. A class, for it is the hot path. */
export class OutputCount {
  readonly #createCounter: () => RunningCount
  #text: Tally | undefined
  #refusal: Tally | undefined
  #reasoning: Tally | undefined
  #calls: Tally | undefined
  /** The provider has told the usage itself. */
  #told = false
  #isBilled = true
  /** Tokens of the request that the budget has dropped. */
  #saved = 0

  constructor(createCounter: () => RunningCount) {
    this.#createCounter = createCounter
  }

  of(field: 'text' | 'refusal' | 'reasoning'): Tally {
    if (field === 'text') return (this.#text ??= this.#tally())
    if (field === 'refusal') return (this.#refusal ??= this.#tally())
    return (this.#reasoning ??= this.#tally())
  }

  /** Counts a chunk that is delivered whole. */
  add(chunk: Chunk): void {
    switch (chunk.type) {
      case 'text':
      case 'refusal':
      case 'reasoning': {
        const tally = this.of(chunk.type)
        tally.tokens = tally.counter.push(chunk.text)
        return
      }
      case 'tool-call': {
        const tally = (this.#calls ??= this.#tally())
        tally.tokens = tally.counter.push(chunk.name ? chunk.name + chunk.arguments : chunk.arguments)
        return
      }
      case 'note':
        this.#note(chunk)
        return
      case 'usage':
        this.#told = true
    }
  }

  /** The usage of an answer that ends here, unless it has been told. */
  usage(inputTokens: CutOptions['inputTokens'], request: ChatRequest | undefined): UsageChunk | undefined {
    if (this.#told) return undefined
    return { type: 'usage', usage: this.#estimate(inputTokens, request) }
  }

  #estimate(inputTokens: CutOptions['inputTokens'], request: ChatRequest | undefined): Usage {
    const of = (tally: Tally | undefined): number => tally?.tokens ?? 0
    return {
      input: { uncached: inputOf(inputTokens, request, this.#saved), cacheRead: 0, cacheWrite: 0 },
      output: { text: of(this.#text) + of(this.#refusal) + of(this.#calls), reasoning: of(this.#reasoning) },
      estimated: true,
      billed: this.#isBilled
    }
  }

  #note({ from, facts }: NoteChunk): void {
    if (from === 'cache') this.#isBilled = !isFromCache(facts)
    else if (from === 'tokens' && typeof facts.saved === 'number') this.#saved = facts.saved
  }

  #tally(): Tally {
    const counter = this.#createCounter()
    if (typeof counter?.push !== 'function') {
      throw new TypeError('createCounter must give a counter with a push: write tokenizer.counter, not tokenizer.counter()')
    }
    return { counter, tokens: 0 }
  }
}

/**
 * The last words of an answer that is cut: the usage the provider has told with the chunk that crossed, or else the estimate,
 * and `finish`.
 */
export function emitCut(behind: readonly Chunk[], estimate: () => UsageChunk | undefined, emit: (chunk: Chunk) => void): void {
  const usage = behind.find((chunk) => chunk.type === 'usage') ?? estimate()
  if (usage !== undefined) emit(usage)
  emit(finish)
}

const finish: FinishChunk = Object.freeze({ type: 'finish', reason: 'cut' })

function inputOf(inputTokens: CutOptions['inputTokens'], request: ChatRequest | undefined, saved: number): number {
  if (typeof inputTokens !== 'function') return inputTokens ?? 0
  if (request === undefined) return 0
  const tokens = inputTokens(request)
  if (!isCount(tokens)) throw new TypeError(`inputTokens must give a whole number from 0 up, not ${shown(tokens)}`)
  return Math.max(0, tokens - saved)
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0
}
