import {
  type ChatRequest,
  type Completion,
  isFromCache,
  isJsonObject,
  isMillraceError,
  type Json,
  type Usage,
  type UsageEstimate
} from '@millrace/core'
import type { TokenCounter, Tokenizer, Tokenizers } from '@millrace/tokens'

/**
 * What an answer that broke off will have cost: the prompt as it was sent, and what came of the answer. A provider bills both,
 * and tells neither; at best it has told the input at the start, in a note. One for each answer: it counts on from where it
 * was, so that looking again costs what has come since.
 */
export function partialUsage(tokenizers: Tokenizers | undefined, request: ChatRequest): UsageEstimate {
  const running = new Map<string, RunningTokens>()
  const tokensOf = (tokenizer: Tokenizer, field: string, text: string): number => {
    let tokens = running.get(field)
    if (tokens === undefined) running.set(field, (tokens = new RunningTokens(tokenizer.counter())))
    return tokens.of(text)
  }

  function outputOf(tokenizer: Tokenizer, { text, refusal = '', reasoning, toolCalls }: Completion): Usage['output'] {
    let visible = tokensOf(tokenizer, 'text', text) + tokensOf(tokenizer, 'refusal', refusal)
    for (const [index, call] of toolCalls.entries()) {
      visible += tokenizer.count(call.name) + tokensOf(tokenizer, `call ${call.id || index}`, call.arguments)
    }
    return { text: visible, reasoning: tokensOf(tokenizer, 'reasoning', reasoning.map((block) => block.text).join('')) }
  }

  return (partial) => {
    const { usage, notes } = partial
    const told = someInput(usage?.input) ?? someInput(notes.provider?.input)
    const billed = !isFromCache(notes.cache)
    const least = usage?.output ?? { text: 0, reasoning: 0 }
    try {
      const tokenizer = tokenizers?.for(request.model)
      if (tokenizer === undefined) return told && { input: told, output: least, estimated: true, billed }
      const { text, reasoning } = outputOf(tokenizer, partial)
      return {
        input: told ?? inputOf(tokenizer, request, notes.tokens?.saved),
        output: { text: Math.max(text, least.text), reasoning: Math.max(reasoning, least.reasoning) },
        estimated: true,
        billed
      }
    } catch (error) {
      // Tokenizers that were closed, or a request nobody can count: what broke the call is told all the same.
      if (isMillraceError(error)) return undefined
      throw error
    }
  }
}

/** The tokens of a text that only grows. */
class RunningTokens {
  readonly #counter: TokenCounter
  #chars = 0
  #tokens = 0

  constructor(counter: TokenCounter) {
    this.#counter = counter
  }

  of(text: string): number {
    if (text.length > this.#chars) {
      this.#tokens = this.#counter.push(text.slice(this.#chars))
      this.#chars = text.length
    }
    return this.#tokens
  }
}

/** What was told, by usage or by the provider's note, if it says anything: some servers begin with zeros. */
function someInput(told: Json | Usage['input'] | undefined): Usage['input'] | undefined {
  if (!isJsonObject(told)) return undefined
  const { uncached, cacheRead, cacheWrite } = told
  const parts = [uncached, cacheRead, cacheWrite]
  if (!parts.every((part) => typeof part === 'number' && part >= 0 && Number.isFinite(part))) return undefined
  return parts.some((part) => part !== 0) ? ({ uncached, cacheRead, cacheWrite } as Usage['input']) : undefined
}

/** The budget may have dropped some of it. */
function inputOf(tokenizer: Tokenizer, request: ChatRequest, saved: unknown): Usage['input'] {
  const tokens = tokenizer.countMessages(request.messages, request)
  return { uncached: Math.max(0, tokens - (typeof saved === 'number' ? saved : 0)), cacheRead: 0, cacheWrite: 0 }
}
