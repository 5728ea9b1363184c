import type { Message, ResponseFormat, Tool } from '@millrace/core'
import { formatTokens, messageTokens, toolTokens } from './message.ts'
import { type Encoding, type ModelRule, ruleOf } from './model.ts'
import { closed, createVocabulary, type TokenCounter, type Vocabulary } from './vocabulary.ts'

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
   * the text whatever is in it, and synchronous: expect a quarter of a second for a megabyte of English, up to a second
   * for a hostile one. Equal to tiktoken's `encode_ordinary`, except in a run of more than 400 characters without the end
   * of a word, number or clause: each 400 of those may cost a token of error.
   *
   * @throws {MillraceError} `closed` after `tokenizers.close()`
   */
  count(text: string): number
  /** A running total for a stream: always `count` of the joined text. Counting each piece by itself over-counts. */
  counter(): TokenCounter
  /**
   * What a request of these messages is charged for input: texts, names, tool calls, tools, and what the chat format adds
   * around them. Images, audio and files are not counted (see `uncountedParts`). A message's count is remembered as long
   * as the object lives: a changed message is a new object.
   *
   * @throws {MillraceError} `closed` after `tokenizers.close()`; `invalid-request` for a tool's schema that has a cycle
   */
  countMessages(messages: readonly Message[], beside?: BesideMessages): number
}

/** What else of a request is charged for input. A `ChatRequest` is one of these. */
export interface BesideMessages {
  readonly tools?: readonly Tool[] | undefined
  readonly responseFormat?: ResponseFormat | undefined
}

/** Owns the vocabularies: about 200 ms and 75 MB each, loaded when the first text is counted. */
export interface Tokenizers extends AsyncDisposable {
  /** Never fails: a model not known here gets the nearest vocabulary, with `exact: false` and a safety factor. */
  for(model: string): Tokenizer
  /** Frees the vocabularies. Counting afterwards throws; closing twice does not. */
  close(): Promise<void>
}

/** A vocabulary and the counts of messages made with it. */
interface Shelf extends Vocabulary {
  readonly messages: WeakMap<Message, Memo>
}

interface Memo {
  readonly content: Message['content']
  readonly tokens: number
}

/**
 * @example
 * await using tokenizers = createTokenizers()
 * console.log(tokenizers.for('gpt-4.1').count('How many tokens are these?'))
 */
export function createTokenizers(): Tokenizers {
  const shelves = new Map<Encoding, Shelf>()
  let isClosed = false

  function shelf(encoding: Encoding): Shelf {
    if (isClosed) throw closed()
    let found = shelves.get(encoding)
    if (found === undefined) {
      found = { ...createVocabulary(encoding), messages: new WeakMap() }
      shelves.set(encoding, found)
    }
    return found
  }

  async function close(): Promise<void> {
    isClosed = true
    for (const { free } of shelves.values()) free()
    shelves.clear()
  }

  return {
    for(model) {
      if (typeof model !== 'string') throw new TypeError("a tokenizer is for a model: write for('gpt-4.1')")
      return tokenizer(model, ruleOf(model), shelf)
    },
    close,
    [Symbol.asyncDispose]: close
  }
}

function tokenizer(model: string, rule: ModelRule, shelf: (encoding: Encoding) => Shelf): Tokenizer {
  const { encoding, exact, safetyFactor, priming } = rule

  function remembered(message: Message, { messages, count }: Shelf): number {
    const memo = messages.get(message)
    // The one change that is both easy to make and cheap to see.
    if (memo !== undefined && memo.content === message.content) return memo.tokens
    const tokens = messageTokens(message, count)
    messages.set(message, { content: message.content, tokens })
    return tokens
  }

  return {
    model,
    encoding,
    exact,
    safetyFactor,
    count: (text) => shelf(encoding).count(text),
    counter: () => shelf(encoding).counter(),
    countMessages(messages, { tools, responseFormat } = {}) {
      const own = shelf(encoding)
      let tokens = priming + toolTokens(tools, messages, own.count) + formatTokens(responseFormat, own.count)
      for (const message of messages) tokens += remembered(message, own)
      return tokens
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
