import { isJsonObject, type Json, type JsonObject, parseJson, type Usage } from '@millrace/core'

const tailBytes = 16_384
const headBytes = 4096

/**
 * Sees the bytes of an answer go by and finds the usage in the last 16 KiB of them, JSON or events: OpenAI (chat and Responses)
 * and what speaks like it, Anthropic, Google. Of the beginning it keeps 4 KiB: there Anthropic tells its input.
 */
export class UsageTail {
  readonly #head: Uint8Array[] = []
  #pieces: Uint8Array[] = []
  #kept = 0
  #bytes = 0

  /** Copies what it keeps: who reads a web stream may take the memory away. */
  push(piece: Uint8Array): void {
    if (this.#bytes < headBytes) this.#head.push(copy(piece.subarray(0, headBytes - this.#bytes)))
    this.#bytes += piece.length
    const kept = copy(piece.subarray(-tailBytes))
    this.#pieces.push(kept)
    this.#kept += kept.length
    for (let first = this.#pieces[0]; first !== undefined && this.#kept - first.length >= tailBytes; first = this.#pieces[0]) {
      this.#pieces.shift()
      this.#kept -= first.length
    }
  }

  usage(): Usage | undefined {
    if (this.#bytes === 0) return undefined
    return usageIn(decode(this.#pieces), decode(this.#head))
  }

  /** The same, where a stream has said its last word: clients leave behind that, and need not read to the end. */
  lastUsage(): Usage | undefined {
    const text = decode(this.#pieces)
    return lastWords.some((word) => text.includes(word)) ? usageIn(text, decode(this.#head)) : undefined
  }
}

const lastWords = [
  'data: [DONE]',
  'data:[DONE]',
  '"type":"message_stop"',
  '"type": "message_stop"',
  '"type":"response.completed"'
] as const

/** Not by `slice`, which is a view of the same memory where the piece is a Buffer. */
function copy(piece: Uint8Array): Uint8Array {
  return new Uint8Array(piece)
}

function decode(pieces: readonly Uint8Array[]): string {
  return Buffer.concat(pieces).toString('utf8')
}

/** The usage in the end of an answer's text; `head` is its beginning. */
export function usageIn(text: string, head: string = text.slice(0, headBytes)): Usage | undefined {
  const last = lastObject(text, '"usage"') ?? lastObject(text, '"usageMetadata"')
  if (last === undefined) return undefined
  // Anthropic's last event need not say what the input was; its first does.
  if (last.output_tokens !== undefined && last.input_tokens === undefined) {
    const first = lastObject(head, '"usage"')
    if (first !== undefined) return usageOf({ ...first, ...last })
  }
  return usageOf(last)
}

/** The object behind the last of these keys that has one. Within a string its quotes would be escaped. */
function lastObject(text: string, key: string): JsonObject | undefined {
  for (let at = text.lastIndexOf(key); at !== -1; at = at === 0 ? -1 : text.lastIndexOf(key, at - 1)) {
    if (text[at - 1] === '\\') continue
    const start = at + key.length
    const from = start + (/^\s{0,8}:\s{0,8}/.exec(text.slice(start, start + 20))?.[0].length ?? 0)
    if (text[from] !== '{') continue
    const value = parseJson(text.slice(from, endOfObject(text, from)))
    if (isJsonObject(value)) return value
  }
  return undefined
}

/** Behind the closing brace. Usage has no braces within strings. */
function endOfObject(text: string, from: number): number {
  let depth = 0
  for (let at = from; at < text.length && at < from + 4096; at++) {
    const char = text[at]
    if (char === '{') depth++
    else if (char === '}' && --depth === 0) return at + 1
  }
  return from
}

function usageOf(told: JsonObject): Usage | undefined {
  const number = (...names: readonly string[]): number | undefined => {
    for (const name of names) {
      const value = told[name]
      if (typeof value === 'number' && value >= 0) return value
    }
    return undefined
  }
  const input = number('prompt_tokens', 'input_tokens', 'promptTokenCount')
  const output = number('completion_tokens', 'output_tokens', 'candidatesTokenCount')
  if (input === undefined && output === undefined) return undefined
  // Anthropic counts what it cached beside the input, the others within.
  const beside = number('cache_read_input_tokens')
  const written = number('cache_creation_input_tokens') ?? 0
  const within = number('cachedContentTokenCount') ?? cachedWithin(told.prompt_tokens_details ?? told.input_tokens_details)
  const cacheRead = beside ?? Math.min(within, input ?? 0)
  // Google counts its thoughts beside the answer.
  const thoughts = number('thoughtsTokenCount') ?? 0
  return {
    input: { uncached: (input ?? 0) - (beside === undefined ? cacheRead : 0), cacheRead, cacheWrite: written },
    output: { text: output ?? 0, reasoning: thoughts },
    estimated: false,
    billed: true
  }
}

function cachedWithin(details: Json | undefined): number {
  const cached = isJsonObject(details) ? details.cached_tokens : undefined
  return typeof cached === 'number' && cached >= 0 ? cached : 0
}
