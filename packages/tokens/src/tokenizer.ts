import { type BesideMessages, checkBeside, checkMessage, type Message } from '@millrace/core'
import { mostWithin } from './charged.ts'
import type { TokenCounter } from './counter.ts'
import { type Counting, closed, createCounting } from './counting.ts'
import { messageTokens, requestTokens } from './message.ts'
import { type Encoding, type ModelRule, ruleOf } from './model.ts'
import { createTurns } from './turns.ts'

/** Counts for one model. Keep nothing of it: `tokenizers.for(model)` is cheap. */
export interface Tokenizer {
  readonly model: string
  readonly encoding: Encoding
  /** False when the model's own vocabulary is not known here, and the nearest one counts in its place. */
  readonly exact: boolean
  /** Multiply a count by it before using it as a limit; 1 when exact. Counts themselves come without it. */
  readonly safetyFactor: number
  /**
   * Tokens of a text. Special tokens such as `<|endoftext|>` are plain text, as they are to the API. Time is linear in
   * the text whatever is in it, and synchronous: expect 20 ms for a megabyte of English or code, 30 ms of Chinese, up to 0.4 s
   * of a hostile one. Equal to tiktoken's `encode_ordinary` but for characters that are newer than its tables of Unicode; a
   * run of more than 1,024 bytes without the end of a word, number or clause is cut where a token ends, which was seen to
   * cost a token in long runs of white space, and nowhere else.
   *
   * @throws {MillraceError} `closed` after `tokenizers.close()`
   */
  count(text: string): number
  /**
   * Whether a text takes at most so many tokens, the safety factor counted in. Mostly its length proves it, one way or the
   * other, without counting; else counting stops where the budget ends.
   */
  fits(text: string, budget: number): boolean
  /** `count` that shares the event loop: all that count so hold it for some 10 ms together. An abort rejects with the signal's reason. */
  countAsync(text: string, options?: { readonly signal?: AbortSignal | undefined }): Promise<number>
  /** A running total for a stream: always `count` of the joined text. Counting each piece by itself over-counts. */
  counter(): TokenCounter
  /**
   * What a request of these messages is charged for input: texts, names, tool calls, images by the model's rule, tools, the
   * schema of the answer, and what the chat format adds around them. Audio, files and images of unknown size or price are
   * not counted (see `uncountedParts`), base64 never as text. A message's count is remembered as long as the object lives:
   * a changed message is a new object. So are its texts, for when it comes as another object.
   *
   * @throws {MillraceError} `closed` after `tokenizers.close()`; `invalid-request` for what is no message or tool of the
   * contract (those of OpenAI's own shape, say), and for a tool's schema that has a cycle
   */
  countMessages(messages: readonly Message[], beside?: BesideMessages): number
  /** Loads the vocabulary now, in steps that leave the event loop to others, so that no first count has to. */
  ready(): Promise<void>
}

/** Owns the vocabularies: about 50 ms and 20 MB each, loaded by the first count or by `ready()`. */
export interface Tokenizers extends AsyncDisposable {
  /** Never fails: a model not known here gets the nearest vocabulary, with `exact: false` and a safety factor. */
  for(model: string): Tokenizer
  /** Frees the vocabularies. Counting afterwards throws; closing twice does not. */
  close(): Promise<void>
}

/**
 * @example
 * await using tokenizers = createTokenizers()
 * console.log(tokenizers.for('gpt-4.1').count('How many tokens are these?'))
 */
export function createTokenizers(): Tokenizers {
  const countings = new Map<Encoding, Counting>()
  const turns = createTurns()
  let isClosed = false

  function countingOf(encoding: Encoding): Counting {
    if (isClosed) throw closed()
    let counting = countings.get(encoding)
    if (counting === undefined) {
      counting = createCounting(encoding, turns)
      countings.set(encoding, counting)
    }
    return counting
  }

  async function close(): Promise<void> {
    isClosed = true
    for (const counting of countings.values()) counting.close()
    countings.clear()
  }

  return {
    for(model) {
      if (typeof model !== 'string') throw new TypeError("a tokenizer is for a model: write for('gpt-4.1')")
      return tokenizer(model, ruleOf(model), countingOf)
    },
    close,
    [Symbol.asyncDispose]: close
  }
}

function tokenizer(model: string, rule: ModelRule, countingOf: (encoding: Encoding) => Counting): Tokenizer {
  const { encoding, exact, safetyFactor } = rule

  function ofMessage(message: Message, index: number, { messages, measure }: Counting): number {
    const memo = messages.get(message)
    // The one change that is both easy to make and cheap to see.
    if (memo !== undefined && memo.content === message.content) return memo.tokens
    checkMessage(message, index)
    const tokens = messageTokens(message, measure)
    messages.set(message, { content: message.content, tokens })
    return tokens
  }

  return {
    model,
    encoding,
    exact,
    safetyFactor,
    count: (text) => countingOf(encoding).count(text),
    fits(text, budget) {
      if (typeof budget !== 'number' || Number.isNaN(budget)) {
        throw new TypeError(`budget must be a number of tokens, not ${String(budget)}`)
      }
      return countingOf(encoding).fits(text, mostWithin(budget, safetyFactor))
    },
    countAsync: async (text, options) => countingOf(encoding).countAsync(text, options?.signal),
    counter: () => countingOf(encoding).counter(),
    ready: async () => countingOf(encoding).ready(),
    countMessages(messages, beside = {}) {
      const own = countingOf(encoding)
      if (!Array.isArray(messages)) {
        throw new TypeError('messages must be an array; of a request write (request.messages, request)')
      }
      const { tools, toolChoice, responseFormat } = beside
      checkBeside({ tools, toolChoice, responseFormat })
      let tokens = 0
      for (let index = 0; index < messages.length; index++) tokens += ofMessage(messages[index] as Message, index, own)
      return tokens + requestTokens(messages, beside, rule, own.measure)
    }
  }
}

/**
 * The short way: a tokenizer over vocabularies that are made on first use, shared by the whole process, and given back
 * when it ends. Where memory must be given back earlier, `createTokenizers` has a `close`.
 *
 * @example
 * console.log(tokenizerFor('gpt-5').count('hello'))
 */
export function tokenizerFor(model: string): Tokenizer {
  shared ??= createTokenizers()
  return shared.for(model)
}

// The one piece of module state here. It holds what never differs between its users, vocabularies, and nobody can close it.
let shared: Tokenizers | undefined
