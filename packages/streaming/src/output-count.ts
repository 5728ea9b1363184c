import type { ChatRequest, Chunk, UsageChunk } from '@millrace/core'

/** The running total of a text that comes in pieces, such as `tokenizer.counter()` of `@millrace/tokens`. */
export interface RunningCount {
  /** Adds text; gives the tokens of everything pushed so far, joined. */
  push(text: string): number
}

/** What an operator that cuts an answer can tell beside the output that it counts. */
export interface CutOptions {
  /**
   * Input tokens for the estimated usage; a function is given the request, which an operator knows only as a layer
   * (`withOperators`), and is called only when the answer is cut. @default 0, which is also said when there is no request
   */
  readonly inputTokens?: number | ((request: ChatRequest) => number) | undefined
}

export function checkCounter(createCounter: unknown): void {
  if (typeof createCounter === 'function') return
  throw new TypeError('createCounter must be a function that gives a new counter, such as tokenizer.counter')
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
      case 'usage':
        this.#told = true
    }
  }

  /** The usage of an answer that ends here, unless it has been told. */
  usage(inputTokens: CutOptions['inputTokens'], request: ChatRequest | undefined): UsageChunk | undefined {
    if (this.#told) return undefined
    const of = (tally: Tally | undefined): number => tally?.tokens ?? 0
    return {
      type: 'usage',
      usage: {
        input: { uncached: inputOf(inputTokens, request), cacheRead: 0, cacheWrite: 0 },
        output: { text: of(this.#text) + of(this.#refusal) + of(this.#calls), reasoning: of(this.#reasoning) },
        estimated: true,
        billed: true
      }
    }
  }

  #tally(): Tally {
    const counter = this.#createCounter()
    if (typeof counter?.push !== 'function') {
      throw new TypeError('createCounter must give a counter with a push: write tokenizer.counter, not tokenizer.counter()')
    }
    return { counter, tokens: 0 }
  }
}

function inputOf(inputTokens: CutOptions['inputTokens'], request: ChatRequest | undefined): number {
  if (typeof inputTokens !== 'function') return inputTokens ?? 0
  if (request === undefined) return 0
  const tokens = inputTokens(request)
  if (!isCount(tokens)) throw new TypeError(`inputTokens must give a whole number from 0 up, not ${String(tokens)}`)
  return tokens
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0
}
